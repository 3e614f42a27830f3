; Collectives are units of their own on a stream for them. An all_reduce leaves its results where its
; operands were; what is put together, or sent in another dtype, gets room in that step; a result that
; nobody reads is not sent. They begin as soon as their operands are there.
; RUN: m6c opt --passes=lower,fuse,schedule,allocate %s
graph demo
setting train yes
setting sharded yes
setting mesh data=2,expert=data
%0 = input {name="x", bound=0} : f32[8,64] @[data,_]
%1 = param {name="w", init="normal", a=0, b=1} : f32[64,64] @[_,_]
%2 = param {name="v", init="normal", a=0, b=1} : f32[64,64] @[_,_]
%3 = input {name="@index/data", bound=0} : i32[]
%4 = einsum %0 %1 {spec="bd,de->be"} : f32[8,64]
%5 = relu %4 : f32[8,64]
%6 = einsum %5 %2 {spec="bd,de->be"} : f32[8,64]
%7 = einsum %5 %6 {spec="bd,be->de"} : f32[64,64] !bwd
%8 = einsum %0 %6 {spec="bd,be->de"} : f32[64,64] !bwd
%9 = all_reduce %7 %6 %8 {over="data", ranks=2, reduce="sum", wire=f16, scale=128} : (f32[64,64], f32[8,64], f32[64,64]) !bwd
%10 = proj %9 {index=0} : f32[64,64]
%11 = proj %9 {index=2} : f32[64,64]
%12 = add %1 %10 : f32[64,64] !apply
%13 = add %2 %11 : f32[64,64] !apply
%14 = assign %1 %12 : f32[64,64] !apply
%15 = assign %2 %13 : f32[64,64] !apply
%16 = reshape %6 {shape=[2,4,64]} : f32[2,4,64]
%17 = all_to_all %16 {over="data", ranks=2, wire=f32} : f32[2,4,64]
%18 = exp %17 : f32[2,4,64]
%19 = reduce_scatter %18 {over="data", ranks=2} : f32[4,64]
%20 = block %19 %3 {dim=0, parts=2} : f32[2,64]
%21 = all_gather %20 {over="data", ranks=2} : f32[2,2,64]
%22 = output %21 {name="y"} : f32[2,2,64]
%23 = sum %6 {axes=[0,1]} : f32[]
%24 = all_reduce %23 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : f32[]
%25 = output %24 {name="loss"} : f32[]
; EXPECT:
graph demo
setting train yes
setting sharded yes
setting mesh data=2,expert=data
%0 = input {name="x", bound=0} : f32[8,64] @[data,_] !at=0
%1 = param {name="w", init="normal", a=0, b=1} : f32[64,64] @[_,_] !at=2048
%2 = einsum %0 %1 {spec="bd,de->be"} : f32[8,64] !group=1 !at=55360
%3 = relu %2 : f32[8,64] !group=2 !at=57408
%4 = param {name="v", init="normal", a=0, b=1} : f32[64,64] @[_,_] !at=18432
%5 = einsum %3 %4 {spec="bd,de->be"} : f32[8,64] !group=3 !at=34880
%6 = reshape %5 {shape=[2,4,64]} : f32[2,4,64]
%7 = all_to_all %6 {over="data", ranks=2, wire=f32} : f32[2,4,64] !group=9 !stream=6 !at=36928
%8 = relu %2 : f32[8,64] !bwd !group=4 !at=55360
%9 = einsum %8 %5 {spec="bd,be->de"} : f32[64,64] !bwd !group=5 !at=38976
%10 = einsum %0 %5 {spec="bd,be->de"} : f32[64,64] !bwd !group=6 !at=55424
%11 = all_reduce %9 %10 {over="data", ranks=2, reduce="sum", wire=f16, scale=128} : (f32[64,64], f32[64,64]) !bwd !group=7 !stream=6
%12 = room %11 {wire=f16} : f16[8192] !bwd !store !at=71808
%13 = proj %11 {index=0} : f32[64,64] !bwd !at=38976
%14 = proj %11 {index=1} : f32[64,64] !bwd !at=55424
%15 = exp %7 : f32[2,4,64] !group=10 !at=36928
%16 = reduce_scatter %15 {over="data", ranks=2} : f32[4,64] !group=11 !stream=6 !at=71808
%17 = sum %5 {axes=[0,1]} : f32[] !group=14 !at=55360
%18 = all_reduce %17 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : f32[] !group=15 !stream=6 !at=55360
%19 = add %1 %13 : f32[64,64] !apply !group=8 !at=2048
%20 = add %4 %14 : f32[64,64] !apply !group=8 !at=18432
%21 = input {name="@index/data", bound=0} : i32[] !at=34816
%22 = block %16 %21 {dim=0, parts=2} : f32[2,64] !group=12 !at=72832
%23 = all_gather %22 {over="data", ranks=2} : f32[2,2,64] !group=13 !stream=6 !at=73344
%24 = assign %1 %19 : f32[64,64] !apply
%25 = assign %4 %20 : f32[64,64] !apply
%26 = output %23 {name="y"} : f32[2,2,64]
%27 = output %18 {name="loss"} : f32[]
