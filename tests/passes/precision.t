; bf16 around f32 masters: contractions low, reductions and the loss f32, a cast to f32 kept, the
; factor 1/3 not rounded, one cast of w for its two uses.
; RUN: m6c opt --passes=precision %s
graph low
setting precision bf16
%0 = input {name="x", bound=0} : f32[4,3]
%1 = param {name="w", init="zeros", a=0, b=0} : f32[3,3]
%2 = param {name="bias", init="zeros", a=0, b=0} : f32[3]
%3 = einsum %0 %1 {spec="ab,bc->ac"} : f32[4,3]
%4 = broadcast %2 {shape=[4,3], dims=[1]} : f32[4,3]
%5 = add %3 %4 : f32[4,3]
%6 = gelu %5 : f32[4,3]
%7 = einsum %6 %1 {spec="ab,bc->ac"} : f32[4,3]
%8 = constant {value=0.3333333333333333} : f32[4,3]
%9 = mul %7 %8 : f32[4,3]
%10 = norm %9 {eps=1e-5} : (f32[4,3], f32[4], f32[4])
%11 = proj %10 {index=0} : f32[4,3]
%12 = cast %11 {to=f32} : f32[4,3]
%13 = einsum %12 %1 {spec="ab,bc->ac"} : f32[4,3]
%14 = mul %9 %9 : f32[4,3]
%15 = sum %14 {axes=[0,1]} : f32[]
%16 = output %15 {name="loss"} : f32[]
%17 = output %13 {name="pinned"} : f32[4,3]
%18 = output %6 {name="an activation"} : f32[4,3]
; EXPECT:
graph low
setting precision bf16
%0 = input {name="x", bound=0} : f32[4,3]
%1 = param {name="w", init="zeros", a=0, b=0} : f32[3,3]
%2 = param {name="bias", init="zeros", a=0, b=0} : f32[3]
%3 = cast %0 {to=bf16} : bf16[4,3]
%4 = cast %1 {to=bf16} : bf16[3,3]
%5 = einsum %3 %4 {spec="ab,bc->ac"} : bf16[4,3]
%6 = broadcast %2 {shape=[4,3], dims=[1]} : f32[4,3]
%7 = cast %6 {to=bf16} : bf16[4,3]
%8 = add %5 %7 : bf16[4,3]
%9 = gelu %8 : bf16[4,3]
%10 = einsum %9 %4 {spec="ab,bc->ac"} : bf16[4,3]
%11 = constant {value=0.3333333333333333} : f32[4,3]
%12 = cast %10 {to=f32} : f32[4,3]
%13 = mul %12 %11 : f32[4,3]
%14 = cast %13 {to=bf16} : bf16[4,3]
%15 = norm %14 {eps=1e-5} : (bf16[4,3], f32[4], f32[4])
%16 = proj %15 {index=0} : bf16[4,3]
%17 = cast %16 {to=f32} : f32[4,3]
%18 = einsum %17 %1 {spec="ab,bc->ac"} : f32[4,3]
%19 = cast %14 {to=f32} : f32[4,3]
%20 = mul %19 %19 : f32[4,3]
%21 = sum %20 {axes=[0,1]} : f32[]
%22 = output %21 {name="loss"} : f32[]
%23 = output %18 {name="pinned"} : f32[4,3]
%24 = cast %9 {to=f32} : f32[4,3]
%25 = output %24 {name="an activation"} : f32[4,3]
