; A vocabulary on a tensor axis: each rank looks up the rows that it has, and what was found is summed; the logits
; stay where their classes are, and the ranks tell each other three numbers a row.
; RUN: m6c opt --passes=shard,simplify %s
graph demo
setting train yes
setting mesh tensor=2
%0 = input {name="text", bound=512} : i32[4]
%1 = input {name="target", bound=512} : i32[4]
%2 = param {name="table", init="normal", a=0, b=1} : f32[512,8]
%3 = gather %2 %0 : f32[4,8]
%4 = einsum %3 %2 {spec="td,vd->tv"} : f32[4,512]
%5 = cross_entropy %4 %1 : (f32[4], f32[4])
%6 = proj %5 {index=0} : f32[4]
%7 = sum %6 {axes=[0]} : f32[]
%8 = output %7 {name="loss"} : f32[]
; EXPECT:
graph demo
setting train yes
setting tokens 4
setting sharded yes
setting mesh tensor=2
%0 = input {name="text", bound=512} : i32[4] @[_]
%1 = input {name="target", bound=512} : i32[4] @[_]
%2 = param {name="table", init="normal", a=0, b=1} : f32[256,8] @[tensor,_]
%3 = input {name="@index/tensor", bound=2} : i32[]
%4 = constant {value=256} : i32[]
%5 = mul %3 %4 : i32[]
%6 = broadcast %5 {shape=[4], dims=[]} : i32[4]
%7 = sub %0 %6 : i32[4]
%8 = gather %2 %7 : f32[4,8] @[_,_]+tensor
%9 = all_reduce %8 {over="tensor", ranks=2, reduce="sum", wire=f32, scale=1} : f32[4,8] @[_,_]
%10 = einsum %9 %2 {spec="td,vd->tv"} : f32[4,256] @[_,tensor]
%11 = sub %1 %6 : i32[4]
%12 = max %10 {axes=[1]} : f32[4]
%13 = all_reduce %12 {over="tensor", ranks=2, reduce="max", wire=f32, scale=1} : f32[4]
%14 = broadcast %13 {shape=[4,256], dims=[0]} : f32[4,256]
%15 = sub %10 %14 : f32[4,256]
%16 = exp %15 : f32[4,256]
%17 = sum %16 {axes=[1]} : f32[4]
%18 = reshape %11 {shape=[4,1]} : i32[4,1]
%19 = pick %10 %18 : f32[4,1]
%20 = reshape %19 {shape=[4]} : f32[4]
%21 = all_reduce %17 %20 {over="tensor", ranks=2, reduce="sum", wire=f32, scale=1} : (f32[4], f32[4])
%22 = proj %21 {index=0} : f32[4]
%23 = log %22 : f32[4]
%24 = add %23 %13 : f32[4]
%25 = proj %21 {index=1} : f32[4]
%26 = sub %24 %25 : f32[4] @[_]
%27 = sum %26 {axes=[0]} : f32[] @[]
%28 = output %27 {name="loss"} : f32[] @[]
