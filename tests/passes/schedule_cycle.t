; Transfers in an order that no rank can keep: the second must come before the first can be sent.
; RUN: m6c opt --passes=lower,fuse,schedule %s 2>&1 | grep -o "no order of the units.*"
graph stage
setting mesh pipeline=2
setting sharded yes
setting stages 2
setting stage 0
%0 = input {name="@step", bound=0} : i32[]
%1 = recv %0 {over="pipeline", ranks=2, peer=1, tag=2, dtype=f32, shape=[8]} : f32[8] @[_]
%2 = exp %1 : f32[8] @[_] ; block[0].ffn a.m6:2:1
%3 = send %2 {over="pipeline", ranks=2, peer=1, tag=1} : i32[]
%4 = exp %2 : f32[8] @[_]
%5 = output %4 {name="y"} : f32[8] @[_]
; EXPECT:
no order of the units: %1 recv waits for %3 send waits for %2 exp of block[0].ffn waits for %1 recv
