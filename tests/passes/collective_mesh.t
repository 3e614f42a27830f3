; What a collective and a part say of the mesh must be so.
; RUN: m6c opt --passes=simplify %s
; error: 15:1: is split twice over axis 'data'
; error: 16:1: the mesh has no axis 'expert' of its own
; error: 17:1: the mesh has no group of ranks 'date'
; error: 18:1: group 'data.tensor' has 4 ranks, not 2
; error: 19:1: stream 3 is not for collectives
; error: 20:1: stream 6 is for collectives
; error: 21:1: is room for the message of what is no collective
; error: 22:1: the mesh has no group of ranks 'data%3'
; error: 25:1: has 1 parts, the message 2
graph mesh
setting sharded yes
setting mesh data=2,tensor=2,expert=data
%0 = input {name="x", bound=0} : f32[4,4] @[data.data,_]
%1 = input {name="y", bound=0} : f32[4,4] @[tensor,expert]
%2 = all_gather %0 {over="date", ranks=2} : f32[2,4,4]
%3 = all_gather %1 {over="data.tensor", ranks=2} : f32[2,4,4]
%4 = all_gather %1 {over="data/1", ranks=2} : f32[2,4,4] !stream=3
%5 = exp %0 : f32[4,4] !stream=6
%6 = room %1 {wire=f16, parts=1} : f16[16] !store
%7 = all_gather %1 {over="data%3", ranks=3} : f32[3,4,4]
%8 = reshape %1 {shape=[2,8]} : f32[2,8]
%9 = reduce_scatter %8 {over="data", ranks=2, wire=f16, scale=8} : f32[8]
%10 = room %9 {wire=f16, parts=1} : f16[8] !store
%11 = output %5 {name="a"} : f32[4,4]
