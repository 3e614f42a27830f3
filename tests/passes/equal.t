; Equal nodes are one, also with operands swapped; cheap ones of another phase, random sites and
; effects are not. A node that two micro-batches share belongs to none. Dead nodes go.
; RUN: m6c opt --passes=simplify %s
graph equal
%0 = input {name="x", bound=0} : f32[2,3]
%1 = input {name="y", bound=0} : f32[2,3]
%2 = add %0 %1 : f32[2,3]
%3 = add %1 %0 : f32[2,3]
%4 = mul %2 %3 : f32[2,3]
%5 = output %4 {name="(x+y)(y+x)"} : f32[2,3]
%6 = sub %0 %1 : f32[2,3]
%7 = sub %1 %0 : f32[2,3]
%8 = mul %6 %7 : f32[2,3]
%9 = output %8 {name="(x-y)(y-x)"} : f32[2,3]
%10 = exp %0 : f32[2,3]
%11 = exp %0 : f32[2,3] !bwd
%12 = sum %10 {axes=[0]} : f32[3]
%13 = sum %10 {axes=[0]} : f32[3] !bwd
%14 = output %12 {name="forward"} : f32[3]
%15 = output %13 {name="backward"} : f32[3]
%16 = output %11 {name="computed again"} : f32[2,3]
%17 = input {name="@seed", bound=0} : i32[]
%18 = input {name="@step", bound=0} : i32[]
%19 = random %17 %18 {site="a", shape=[2], parts=[]} : f32[2]
%20 = random %17 %18 {site="a", shape=[2], parts=[]} : f32[2]
%21 = sub %19 %20 : f32[2]
%22 = output %21 {name="two draws"} : f32[2]
%23 = tanh %1 : f32[2,3] !micro=0
%24 = tanh %1 : f32[2,3] !micro=1
%25 = mul %23 %24 : f32[2,3] !micro=1
%26 = output %25 {name="shared"} : f32[2,3]
%27 = erf %25 : f32[2,3]
; EXPECT:
graph equal
%0 = input {name="x", bound=0} : f32[2,3]
%1 = input {name="y", bound=0} : f32[2,3]
%2 = add %0 %1 : f32[2,3]
%3 = mul %2 %2 : f32[2,3]
%4 = output %3 {name="(x+y)(y+x)"} : f32[2,3]
%5 = sub %0 %1 : f32[2,3]
%6 = sub %1 %0 : f32[2,3]
%7 = mul %5 %6 : f32[2,3]
%8 = output %7 {name="(x-y)(y-x)"} : f32[2,3]
%9 = exp %0 : f32[2,3]
%10 = exp %0 : f32[2,3] !bwd
%11 = sum %9 {axes=[0]} : f32[3]
%12 = output %11 {name="forward"} : f32[3]
%13 = output %11 {name="backward"} : f32[3]
%14 = output %10 {name="computed again"} : f32[2,3]
%15 = input {name="@seed", bound=0} : i32[]
%16 = input {name="@step", bound=0} : i32[]
%17 = random %15 %16 {site="a", shape=[2], parts=[]} : f32[2]
%18 = random %15 %16 {site="a", shape=[2], parts=[]} : f32[2]
%19 = sub %17 %18 : f32[2]
%20 = output %19 {name="two draws"} : f32[2]
%21 = tanh %1 : f32[2,3]
%22 = mul %21 %21 : f32[2,3] !micro=1
%23 = output %22 {name="shared"} : f32[2,3]
