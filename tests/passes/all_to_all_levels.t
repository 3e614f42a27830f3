; Three phases: among 2 neighbours, among the 2 of one place in groups of 4, between the 2 of one place.
; RUN: m6c opt --passes=collectives %s
graph demo
setting sharded yes
setting all_to_all "2,4"
setting mesh data=8
%0 = input {name="x", bound=0} : f32[8,5]
%1 = all_to_all %0 {over="data", ranks=8, wire=f32} : f32[8,5]
%2 = output %1 {name="a"} : f32[8,5]
; EXPECT:
graph demo
setting sharded yes
setting all_to_all "2,4"
setting mesh data=8
%0 = input {name="x", bound=0} : f32[8,5]
%1 = reshape %0 {shape=[2,2,2,5]} : f32[2,2,2,5]
%2 = transpose %1 {perm=[2,0,1,3]} : f32[2,2,2,5]
%3 = all_to_all %2 {over="data%2", ranks=2, wire=f32} : f32[2,2,2,5] !stream=6
%4 = transpose %3 {perm=[2,0,1,3]} : f32[2,2,2,5]
%5 = all_to_all %4 {over="data%4/2", ranks=2, wire=f32} : f32[2,2,2,5] !stream=6
%6 = transpose %5 {perm=[2,0,1,3]} : f32[2,2,2,5]
%7 = all_to_all %6 {over="data/4", ranks=2, wire=f32} : f32[2,2,2,5] !stream=6
%8 = reshape %7 {shape=[8,5]} : f32[8,5]
%9 = output %8 {name="a"} : f32[8,5]
