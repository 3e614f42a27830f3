; Small sums become one kernel, but not those that different messages send: the first message would wait for what the
; second one sends.
; RUN: m6c opt --passes=lower,fuse %s | grep "= sum"
; RUN: sed 's/= all_reduce %5.*/= exp %5 : f32[64] !apply/' %s > %t/o.ir; m6c opt --passes=lower,fuse %t/o.ir | grep "= sum"
graph sums
setting train yes
setting sharded yes
setting mesh data=2
%0 = input {name="a", bound=0} : f32[8,64] @[data,_]
%1 = input {name="b", bound=0} : f32[8,64] @[data,_]
%2 = input {name="c", bound=0} : f32[8,64] @[data,_]
%3 = sum %0 {axes=[0]} : f32[64] !bwd
%4 = sum %1 {axes=[0]} : f32[64] !bwd
%5 = sum %2 {axes=[0]} : f32[64] !bwd
%6 = all_reduce %3 %4 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : (f32[64], f32[64]) !bwd
%7 = proj %6 {index=0} : f32[64] !bwd
%8 = proj %6 {index=1} : f32[64] !bwd
%9 = all_reduce %5 {over="data", ranks=2, reduce="sum", wire=f32, scale=1} : f32[64] !bwd
%10 = output %7 {name="a"} : f32[64]
%11 = output %8 {name="b"} : f32[64]
%12 = output %9 {name="c"} : f32[64]
; EXPECT:
%3 = sum %0 {axes=[0]} : f32[64] !bwd !group=1
%4 = sum %1 {axes=[0]} : f32[64] !bwd !group=1
%5 = sum %2 {axes=[0]} : f32[64] !bwd !group=2
%3 = sum %0 {axes=[0]} : f32[64] !bwd !group=1
%4 = sum %1 {axes=[0]} : f32[64] !bwd !group=1
%5 = sum %2 {axes=[0]} : f32[64] !bwd !group=1
