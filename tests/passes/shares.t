; Three ranks have 3, 1 and 1 fifths of the batch. The last two are one class: one graph, in which a rank's place among
; them says where its part of a whole value begins; the first has a range that is known. Whole values are sums of parts.
; RUN: m6c opt --passes=shard %s > %t/0.ir && cat %t/0.ir && m6c opt --passes= %t/0.ir | cmp - %t/0.ir
; RUN: sed s/data=3/data=3,pipeline=2/ %s > %t/p.ir; m6c opt --passes=shard %t/p.ir 2>&1 | grep error:
; RUN: sed 's/\[10/[11/g' %s > %t/i.ir; m6c opt --passes=shard %t/i.ir 2>&1 | grep -o 'error: a batch.*'
; RUN: sed 's/^setting shares.*/setting shares 3,1/' %s > %t/n.ir; m6c opt --passes=shard %t/n.ir 2>&1 | grep -o "n.ir:.*"
; RUN: sed 's/^setting mesh.*/setting share 2/' %s > %t/m.ir; m6c opt --passes=shard %t/m.ir 2>&1 | grep -o "m.ir:.*"
; RUN: sed 's/^setting train.*/setting share 2/' %s > %t/c.ir; m6c opt --passes=shard %t/c.ir 2>&1 | grep -o "error: there.*"
; RUN: grep -E "^(graph|setting|%0)" %t/0.ir | sed 's/\[6,/[5,/' > %t/u.ir; m6c opt --passes=simplify %t/u.ir 2>&1 | grep -o "error: dim.*"
graph uneven
setting train no
setting mesh data=3
setting shares 3,1,1
%0 = input {name="x", bound=0} : f32[10,4] @[data,_]
%1 = iota {axis=0} : i32[10]
%2 = cast %1 {to=f32} : f32[10]
%3 = broadcast %2 {shape=[10,4], dims=[0]} : f32[10,4]
%4 = mul %0 %3 : f32[10,4]
%5 = sum %4 {axes=[1]} : f32[10]
%6 = max %4 {axes=[0]} : f32[4]
%7 = output %5 {name="rows"} : f32[10]
%8 = output %6 {name="most"} : f32[4]
; EXPECT:
graph uneven
setting sharded yes
setting mesh data=3
setting shares 3,1,1
%0 = input {name="x", bound=0} : f32[6,4] @[data,_]
%1 = iota {axis=0} : i32[6]
%2 = constant {value=0} : i32[]
%3 = broadcast %2 {shape=[6], dims=[]} : i32[6]
%4 = add %1 %3 : i32[6]
%5 = cast %4 {to=f32} : f32[6] @[data]
%6 = broadcast %5 {shape=[6,4], dims=[0]} : f32[6,4] @[data,_]
%7 = mul %0 %6 : f32[6,4] @[data,_]
%8 = sum %7 {axes=[1]} : f32[6] @[data]
%9 = max %7 {axes=[0]} : f32[4]
%10 = all_reduce %9 {over="data", ranks=3, reduce="max", wire=f32, scale=1} : f32[4] @[_]
%11 = pad %8 {lo=[0], hi=[4]} : f32[10]
%12 = all_reduce %11 {over="data", ranks=3, reduce="sum", wire=f32, scale=1} : f32[10] @[_]
%13 = output %12 {name="rows"} : f32[10] @[_]
%14 = output %10 {name="most"} : f32[4] @[_]
error: a pipeline cannot have ranks of unequal shares yet
error: a batch of 11 cannot be shared by the 3 ranks of data
n.ir:13:19: error: expected ',' here
m.ir:13:16: error: the mesh has no axis 'data' of several ranks
error: there is no class 2 of shares: there are 2, from 0
error: dimension 0 is no share of a whole number
