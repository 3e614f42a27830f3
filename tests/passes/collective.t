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
%19 = reduce_scatter %18 {over="data", ranks=2, wire=f32, scale=1} : f32[4,64]
%20 = block %19 %3 {dim=0, parts=2} : f32[2,64]
%21 = all_gather %20 {over="data", ranks=2} : f32[2,2,64]
%22 = output %21 {name="y"} : f32[2,2,64]
%23 = sum %6 {axes=[0,1]} : f32[]
%24 = all_reduce %23 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : f32[]
%25 = output %24 {name="loss"} : f32[]
%26 = reshape %8 {shape=[2,32,64]} : f32[2,32,64] !bwd
%27 = reshape %6 {shape=[2,4,64]} : f32[2,4,64] !bwd
%28 = reduce_scatter %26 %27 {over="data", ranks=2, wire=f16, scale=64} : (f32[32,64], f32[4,64]) !bwd
%29 = proj %28 {index=0} : f32[32,64] !bwd
%30 = proj %28 {index=1} : f32[4,64] !bwd
%31 = exp %29 : f32[32,64] !apply
%32 = exp %30 : f32[4,64] !apply
%33 = all_gather %31 %32 {over="data", ranks=2} : (f32[2,32,64], f32[2,4,64]) !apply
%34 = proj %33 {index=0} : f32[2,32,64] !apply
%35 = proj %33 {index=1} : f32[2,4,64] !apply
%36 = output %34 {name="z"} : f32[2,32,64]
%37 = output %35 {name="zz"} : f32[2,4,64]
; EXPECT:
graph demo
setting train yes
setting sharded yes
setting mesh data=2,expert=data
%0 = input {name="x", bound=0} : f32[8,64] @[data,_] !at=0
%1 = param {name="w", init="normal", a=0, b=1} : f32[64,64] @[_,_] !at=2048
%2 = einsum %0 %1 {spec="bd,de->be"} : f32[8,64] !group=1 !at=36928
%3 = relu %2 : f32[8,64] !group=2 !at=38976
%4 = param {name="v", init="normal", a=0, b=1} : f32[64,64] @[_,_] !at=18432
%5 = einsum %3 %4 {spec="bd,de->be"} : f32[8,64] !group=3 !at=34880
%6 = reshape %5 {shape=[2,4,64]} : f32[2,4,64]
%7 = all_to_all %6 {over="data", ranks=2, wire=f32} : f32[2,4,64] !group=9 !stream=6 !at=103488
%8 = relu %2 : f32[8,64] !bwd !group=4 !at=36928
%9 = einsum %8 %5 {spec="bd,be->de"} : f32[64,64] !bwd !group=5 !at=53312
%10 = einsum %0 %5 {spec="bd,be->de"} : f32[64,64] !bwd !group=6 !at=36928
%11 = all_reduce %9 %10 {over="data", ranks=2, reduce="sum", wire=f16, scale=128} : (f32[64,64], f32[64,64]) !bwd !group=7 !stream=6
%12 = room %11 {wire=f16, parts=1} : f16[8192] !bwd !store !at=69696
%13 = proj %11 {index=0} : f32[64,64] !bwd !at=53312
%14 = proj %11 {index=1} : f32[64,64] !bwd !at=87104
%15 = reshape %10 {shape=[2,32,64]} : f32[2,32,64] !bwd
%16 = reshape %5 {shape=[2,4,64]} : f32[2,4,64] !bwd
%17 = reduce_scatter %15 %16 {over="data", ranks=2, wire=f16, scale=64} : (f32[32,64], f32[4,64]) !bwd !group=16 !stream=6
%18 = room %17 {wire=f16, parts=2} : f16[4608] !bwd !store !at=69696
%19 = proj %17 {index=0} : f32[32,64] !bwd !at=78912
%20 = proj %17 {index=1} : f32[4,64] !bwd !at=105536
%21 = exp %7 : f32[2,4,64] !group=10 !at=103488
%22 = reduce_scatter %21 {over="data", ranks=2, wire=f32, scale=1} : f32[4,64] !group=11 !stream=6 !at=36928
%23 = sum %5 {axes=[0,1]} : f32[] !group=14 !at=70720
%24 = all_reduce %23 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : f32[] !group=15 !stream=6 !at=70720
%25 = add %1 %13 : f32[64,64] !apply !group=8 !at=2048
%26 = add %4 %14 : f32[64,64] !apply !group=8 !at=18432
%27 = input {name="@index/data", bound=0} : i32[] !at=34816
%28 = block %22 %27 {dim=0, parts=2} : f32[2,64] !group=12 !at=34880
%29 = all_gather %28 {over="data", ranks=2} : f32[2,2,64] !group=13 !stream=6 !at=53312
%30 = exp %19 : f32[32,64] !apply !group=17 !at=78912
%31 = exp %20 : f32[4,64] !apply !group=18 !at=105536
%32 = all_gather %30 %31 {over="data", ranks=2} : (f32[2,32,64], f32[2,4,64]) !apply !group=19 !stream=6
%33 = room %32 {wire=f32, parts=1} : f32[4608] !apply !store !at=34880
%34 = proj %32 {index=0} : f32[2,32,64] !apply !at=54336
%35 = proj %32 {index=1} : f32[2,4,64] !apply !at=70784
%36 = assign %1 %25 : f32[64,64] !apply
%37 = assign %4 %26 : f32[64,64] !apply
%38 = output %29 {name="y"} : f32[2,2,64]
%39 = output %24 {name="loss"} : f32[]
%40 = output %34 {name="z"} : f32[2,32,64]
%41 = output %35 {name="zz"} : f32[2,4,64]
