; The gradient of sum(relu(x w)^2) by w, used twice; the other parameter has none.
; RUN: m6c opt --passes=differentiate,simplify %s 2>%t/warnings
; RUN: sed 's/^[^ ]*: //' %t/warnings | head -1
graph two
setting train yes
%0 = input {name="x", bound=0} : f32[4,3]
%1 = param {name="w", init="zeros", a=0, b=0} : f32[3,5] ; layer
%2 = param {name="idle", init="zeros", a=0, b=0} : f32[7] ; layer
%3 = einsum %0 %1 {spec="ab,bc->ac"} : f32[4,5] ; layer
%4 = relu %3 : f32[4,5] ; layer
%5 = mul %4 %4 : f32[4,5]
%6 = sum %5 {axes=[0,1]} : f32[]
%7 = mul %1 %1 : f32[3,5]
%8 = sum %7 {axes=[0,1]} : f32[]
%9 = add %6 %8 : f32[]
%10 = output %9 {name="loss"} : f32[]
; EXPECT:
graph two
setting train yes
%0 = input {name="x", bound=0} : f32[4,3]
%1 = param {name="w", init="zeros", a=0, b=0} : f32[3,5] ; layer
%2 = param {name="idle", init="zeros", a=0, b=0} : f32[7] ; layer
%3 = einsum %0 %1 {spec="ab,bc->ac"} : f32[4,5] ; layer
%4 = relu %3 : f32[4,5] ; layer
%5 = mul %4 %4 : f32[4,5]
%6 = sum %5 {axes=[0,1]} : f32[]
%7 = mul %1 %1 : f32[3,5]
%8 = sum %7 {axes=[0,1]} : f32[]
%9 = add %6 %8 : f32[]
%10 = output %9 {name="loss"} : f32[]
%11 = add %1 %1 : f32[3,5] !bwd ; layer
%12 = add %4 %4 : f32[4,5] !bwd ; layer
%13 = constant {value=0} : f32[4,5] !bwd ; layer
%14 = gt %3 %13 : bool[4,5] !bwd ; layer
%15 = select %14 %12 %13 : f32[4,5] !bwd ; layer
%16 = einsum %0 %15 {spec="ab,ac->bc"} : f32[3,5] !bwd ; layer
%17 = add %11 %16 : f32[3,5] !bwd ; layer
%18 = gradient %17 {of="w"} : f32[3,5] !bwd ; layer
%19 = constant {value=0} : f32[7] !bwd ; layer
%20 = gradient %19 {of="idle"} : f32[7] !bwd ; layer
the loss does not depend on parameter 'idle'
