; Transposes of operands and of results become labels of the contraction.
; RUN: m6c opt --passes=simplify %s
graph einsum
%0 = input {name="x", bound=0} : f32[2,3,4]
%1 = input {name="w", bound=0} : f32[4,5,6]
%2 = transpose %0 {perm=[1,0,2]} : f32[3,2,4]
%3 = einsum %2 %1 {spec="tbd,dhk->btkh"} : f32[2,3,6,5]
%4 = transpose %3 {perm=[0,3,1,2]} : f32[2,5,3,6]
%5 = output %4 {name="btkh wanted as bhtk"} : f32[2,5,3,6]
%6 = einsum %0 %1 {spec="btd,dhk->bthk"} : f32[2,3,5,6]
%7 = transpose %6 {perm=[0,2,1,3]} : f32[2,5,3,6]
%8 = exp %6 : f32[2,3,5,6]
%9 = output %7 {name="this transpose stays: there are two users"} : f32[2,5,3,6]
%10 = output %8 {name="of two layouts"} : f32[2,3,5,6]
; EXPECT:
graph einsum
%0 = input {name="x", bound=0} : f32[2,3,4]
%1 = input {name="w", bound=0} : f32[4,5,6]
%2 = einsum %0 %1 {spec="btd,dhk->bhtk"} : f32[2,5,3,6]
%3 = output %2 {name="btkh wanted as bhtk"} : f32[2,5,3,6]
%4 = einsum %0 %1 {spec="btd,dhk->bthk"} : f32[2,3,5,6]
%5 = transpose %4 {perm=[0,2,1,3]} : f32[2,5,3,6]
%6 = exp %4 : f32[2,3,5,6]
%7 = output %5 {name="this transpose stays: there are two users"} : f32[2,5,3,6]
%8 = output %6 {name="of two layouts"} : f32[2,3,5,6]
