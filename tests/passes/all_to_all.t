; An all_to_all in phases. What a dispatch writes is ordered by the slots that it reads; a transpose before
; or behind takes the digits along; between two phases there is one transpose; what travels as f16 is
; cast once before and once after. Groups of other ranks than a whole axis stay as they are.
; RUN: m6c opt --passes=collectives %s
graph demo
setting sharded yes
setting all_to_all "2"
setting all_to_all_chunks 1
setting mesh data=4,tensor=2
%0 = input {name="x", bound=0} : f32[12,16] @[data,_]
%1 = input {name="slot", bound=0} : i32[12,1] @[data,_]
%2 = input {name="source", bound=0} : i32[8,3] @[_,data]
%3 = dispatch %0 %1 %2 : f32[8,3,16]
%4 = reshape %3 {shape=[4,2,3,16]} : f32[4,2,3,16]
%5 = all_to_all %4 {over="data", ranks=4, wire=f32} : f32[4,2,3,16]
%6 = output %5 {name="a"} : f32[4,2,3,16]
%7 = input {name="y", bound=0} : f32[3,4,5]
%8 = transpose %7 {perm=[1,0,2]} : f32[4,3,5]
%9 = all_to_all %8 {over="data", ranks=4, wire=f32} : f32[4,3,5]
%10 = output %9 {name="b"} : f32[4,3,5]
%11 = input {name="z", bound=0} : f32[4,6,5]
%12 = all_to_all %11 {over="data", ranks=4, wire=f16} : f32[4,6,5]
%13 = transpose %12 {perm=[1,0,2]} : f32[6,4,5]
%14 = output %13 {name="c"} : f32[6,4,5]
%15 = input {name="w", bound=0} : f32[4,7]
%16 = all_to_all %15 {over="data", ranks=4, wire=f16} : f32[4,7]
%17 = output %16 {name="d"} : f32[4,7]
%18 = input {name="v", bound=0} : f32[8,2]
%19 = all_to_all %18 {over="data.tensor", ranks=8, wire=f32} : f32[8,2]
%20 = output %19 {name="e"} : f32[8,2]
; EXPECT:
graph demo
setting sharded yes
setting all_to_all "2"
setting all_to_all_chunks 1
setting mesh data=4,tensor=2
%0 = input {name="x", bound=0} : f32[12,16] @[data,_]
%1 = input {name="slot", bound=0} : i32[12,1] @[data,_]
%2 = input {name="source", bound=0} : i32[8,3] @[_,data]
%3 = reshape %2 {shape=[4,6]} : i32[4,6]
%4 = reshape %3 {shape=[2,2,6]} : i32[2,2,6]
%5 = transpose %4 {perm=[1,0,2]} : i32[2,2,6]
%6 = reshape %5 {shape=[8,3]} : i32[8,3]
%7 = dispatch %0 %1 %6 : f32[8,3,16]
%8 = reshape %7 {shape=[2,2,96]} : f32[2,2,96]
%9 = all_to_all %8 {over="data%2", ranks=2, wire=f32} : f32[2,2,96] !stream=6
%10 = transpose %9 {perm=[1,0,2]} : f32[2,2,96]
%11 = all_to_all %10 {over="data/2", ranks=2, wire=f32} : f32[2,2,96] !stream=6
%12 = reshape %11 {shape=[4,2,3,16]} : f32[4,2,3,16]
%13 = output %12 {name="a"} : f32[4,2,3,16]
%14 = input {name="y", bound=0} : f32[3,4,5]
%15 = reshape %14 {shape=[3,2,2,5]} : f32[3,2,2,5]
%16 = transpose %15 {perm=[2,1,0,3]} : f32[2,2,3,5]
%17 = all_to_all %16 {over="data%2", ranks=2, wire=f32} : f32[2,2,3,5] !stream=6
%18 = transpose %17 {perm=[1,0,2,3]} : f32[2,2,3,5]
%19 = all_to_all %18 {over="data/2", ranks=2, wire=f32} : f32[2,2,3,5] !stream=6
%20 = reshape %19 {shape=[4,3,5]} : f32[4,3,5]
%21 = output %20 {name="b"} : f32[4,3,5]
%22 = input {name="z", bound=0} : f32[4,6,5]
%23 = reshape %22 {shape=[2,2,6,5]} : f32[2,2,6,5]
%24 = cast %23 {to=f16} : f16[2,2,6,5]
%25 = all_to_all %24 {over="data/2", ranks=2, wire=f16} : f16[2,2,6,5] !stream=6
%26 = transpose %25 {perm=[1,0,2,3]} : f16[2,2,6,5]
%27 = all_to_all %26 {over="data%2", ranks=2, wire=f16} : f16[2,2,6,5] !stream=6
%28 = transpose %27 {perm=[2,1,0,3]} : f16[6,2,2,5]
%29 = cast %28 {to=f32} : f32[6,2,2,5]
%30 = reshape %29 {shape=[6,4,5]} : f32[6,4,5]
%31 = output %30 {name="c"} : f32[6,4,5]
%32 = input {name="w", bound=0} : f32[4,7]
%33 = reshape %32 {shape=[2,2,7]} : f32[2,2,7]
%34 = transpose %33 {perm=[1,0,2]} : f32[2,2,7]
%35 = cast %34 {to=f16} : f16[2,2,7]
%36 = all_to_all %35 {over="data%2", ranks=2, wire=f16} : f16[2,2,7] !stream=6
%37 = transpose %36 {perm=[1,0,2]} : f16[2,2,7]
%38 = all_to_all %37 {over="data/2", ranks=2, wire=f16} : f16[2,2,7] !stream=6
%39 = cast %38 {to=f32} : f32[2,2,7]
%40 = reshape %39 {shape=[4,7]} : f32[4,7]
%41 = output %40 {name="d"} : f32[4,7]
%42 = input {name="v", bound=0} : f32[8,2]
%43 = all_to_all %42 {over="data.tensor", ranks=8, wire=f32} : f32[8,2] !stream=6
%44 = output %43 {name="e"} : f32[8,2]
