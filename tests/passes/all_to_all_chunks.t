; Rows of experts in two pieces. A dispatch reads a part of the slots for each; the forward part's pieces
; are read by the backward part; gradients of weights read all rows, put together; what is no piece of
; anything (a mask) is sliced.
; RUN: m6c opt --passes=collectives %s
graph demo
setting train yes
setting sharded yes
setting all_to_all_chunks 2
setting mesh data=2,expert=data
%0 = input {name="x", bound=0} : f32[12,16] @[data,_]
%1 = input {name="slot", bound=0} : i32[12,1] @[data,_]
%2 = input {name="source", bound=0} : i32[4,5] @[_,data]
%3 = param {name="up", init="zeros", a=0, b=0} : f32[2,16,8] @[data,_,_]
%4 = param {name="bias", init="zeros", a=0, b=0} : f32[2,8] @[data,_]
%5 = input {name="mask", bound=0} : f32[2,10,8]
%6 = dispatch %0 %1 %2 : f32[4,5,16]
%7 = reshape %6 {shape=[2,2,5,16]} : f32[2,2,5,16]
%8 = all_to_all %7 {over="data", ranks=2, wire=f32} : f32[2,2,5,16]
%9 = transpose %8 {perm=[1,0,2,3]} : f32[2,2,5,16]
%10 = reshape %9 {shape=[2,10,16]} : f32[2,10,16]
%11 = einsum %10 %3 {spec="ecd,edf->ecf"} : f32[2,10,8]
%12 = broadcast %4 {shape=[2,10,8], dims=[0,2]} : f32[2,10,8]
%13 = add %11 %12 : f32[2,10,8]
%14 = mul %13 %5 : f32[2,10,8]
%15 = reshape %14 {shape=[2,2,5,8]} : f32[2,2,5,8]
%16 = transpose %15 {perm=[1,0,2,3]} : f32[2,2,5,8]
%17 = all_to_all %16 {over="data", ranks=2, wire=f32} : f32[2,2,5,8]
%18 = output %17 {name="y"} : f32[2,2,5,8]
%19 = exp %17 : f32[2,2,5,8] !bwd
%20 = all_to_all %19 {over="data", ranks=2, wire=f32} : f32[2,2,5,8] !bwd
%21 = transpose %20 {perm=[1,0,2,3]} : f32[2,2,5,8] !bwd
%22 = reshape %21 {shape=[2,10,8]} : f32[2,10,8] !bwd
%23 = gelu_grad %13 : f32[2,10,8] !bwd
%24 = mul %22 %23 : f32[2,10,8] !bwd
%25 = einsum %24 %3 {spec="ecf,edf->ecd"} : f32[2,10,16] !bwd
%26 = reshape %25 {shape=[2,2,5,16]} : f32[2,2,5,16] !bwd
%27 = transpose %26 {perm=[1,0,2,3]} : f32[2,2,5,16] !bwd
%28 = all_to_all %27 {over="data", ranks=2, wire=f32} : f32[2,2,5,16] !bwd
%29 = output %28 {name="dx"} : f32[2,2,5,16] !bwd
%30 = einsum %10 %24 {spec="ecd,ecf->edf"} : f32[2,16,8] !bwd
%31 = output %30 {name="dw"} : f32[2,16,8] !bwd
; EXPECT:
graph demo
setting train yes
setting sharded yes
setting all_to_all_chunks 2
setting mesh data=2,expert=data
%0 = input {name="x", bound=0} : f32[12,16] @[data,_]
%1 = input {name="slot", bound=0} : i32[12,1] @[data,_]
%2 = input {name="source", bound=0} : i32[4,5] @[_,data]
%3 = param {name="up", init="zeros", a=0, b=0} : f32[2,16,8] @[data,_,_]
%4 = param {name="bias", init="zeros", a=0, b=0} : f32[2,8] @[data,_]
%5 = input {name="mask", bound=0} : f32[2,10,8]
%6 = slice %2 {start=[0,0], limit=[4,2]} : i32[4,2]
%7 = dispatch %0 %1 %6 : f32[4,2,16]
%8 = reshape %7 {shape=[2,2,2,16]} : f32[2,2,2,16]
%9 = all_to_all %8 {over="data", ranks=2, wire=f32} : f32[2,2,2,16] !stream=6
%10 = slice %2 {start=[0,2], limit=[4,5]} : i32[4,3]
%11 = dispatch %0 %1 %10 : f32[4,3,16]
%12 = reshape %11 {shape=[2,2,3,16]} : f32[2,2,3,16]
%13 = all_to_all %12 {over="data", ranks=2, wire=f32} : f32[2,2,3,16] !stream=6
%14 = transpose %9 {perm=[1,0,2,3]} : f32[2,2,2,16]
%15 = reshape %14 {shape=[2,4,16]} : f32[2,4,16]
%16 = einsum %15 %3 {spec="ecd,edf->ecf"} : f32[2,4,8]
%17 = broadcast %4 {shape=[2,4,8], dims=[0,2]} : f32[2,4,8]
%18 = add %16 %17 : f32[2,4,8]
%19 = reshape %5 {shape=[4,5,8]} : f32[4,5,8]
%20 = slice %19 {start=[0,0,0], limit=[4,2,8]} : f32[4,2,8]
%21 = reshape %20 {shape=[2,4,8]} : f32[2,4,8]
%22 = mul %18 %21 : f32[2,4,8]
%23 = reshape %22 {shape=[2,2,2,8]} : f32[2,2,2,8]
%24 = transpose %23 {perm=[1,0,2,3]} : f32[2,2,2,8]
%25 = all_to_all %24 {over="data", ranks=2, wire=f32} : f32[2,2,2,8] !stream=6
%26 = transpose %13 {perm=[1,0,2,3]} : f32[2,2,3,16]
%27 = reshape %26 {shape=[2,6,16]} : f32[2,6,16]
%28 = einsum %27 %3 {spec="ecd,edf->ecf"} : f32[2,6,8]
%29 = broadcast %4 {shape=[2,6,8], dims=[0,2]} : f32[2,6,8]
%30 = add %28 %29 : f32[2,6,8]
%31 = reshape %5 {shape=[4,5,8]} : f32[4,5,8]
%32 = slice %31 {start=[0,2,0], limit=[4,5,8]} : f32[4,3,8]
%33 = reshape %32 {shape=[2,6,8]} : f32[2,6,8]
%34 = mul %30 %33 : f32[2,6,8]
%35 = reshape %34 {shape=[2,2,3,8]} : f32[2,2,3,8]
%36 = transpose %35 {perm=[1,0,2,3]} : f32[2,2,3,8]
%37 = all_to_all %36 {over="data", ranks=2, wire=f32} : f32[2,2,3,8] !stream=6
%38 = concat %25 %37 {axis=2} : f32[2,2,5,8]
%39 = output %38 {name="y"} : f32[2,2,5,8]
%40 = exp %25 : f32[2,2,2,8] !bwd
%41 = all_to_all %40 {over="data", ranks=2, wire=f32} : f32[2,2,2,8] !bwd !stream=6
%42 = exp %37 : f32[2,2,3,8] !bwd
%43 = all_to_all %42 {over="data", ranks=2, wire=f32} : f32[2,2,3,8] !bwd !stream=6
%44 = transpose %41 {perm=[1,0,2,3]} : f32[2,2,2,8] !bwd
%45 = reshape %44 {shape=[2,4,8]} : f32[2,4,8] !bwd
%46 = gelu_grad %18 : f32[2,4,8] !bwd
%47 = mul %45 %46 : f32[2,4,8] !bwd
%48 = einsum %47 %3 {spec="ecf,edf->ecd"} : f32[2,4,16] !bwd
%49 = reshape %48 {shape=[2,2,2,16]} : f32[2,2,2,16] !bwd
%50 = transpose %49 {perm=[1,0,2,3]} : f32[2,2,2,16] !bwd
%51 = all_to_all %50 {over="data", ranks=2, wire=f32} : f32[2,2,2,16] !bwd !stream=6
%52 = transpose %43 {perm=[1,0,2,3]} : f32[2,2,3,8] !bwd
%53 = reshape %52 {shape=[2,6,8]} : f32[2,6,8] !bwd
%54 = gelu_grad %30 : f32[2,6,8] !bwd
%55 = mul %53 %54 : f32[2,6,8] !bwd
%56 = einsum %55 %3 {spec="ecf,edf->ecd"} : f32[2,6,16] !bwd
%57 = reshape %56 {shape=[2,2,3,16]} : f32[2,2,3,16] !bwd
%58 = transpose %57 {perm=[1,0,2,3]} : f32[2,2,3,16] !bwd
%59 = all_to_all %58 {over="data", ranks=2, wire=f32} : f32[2,2,3,16] !bwd !stream=6
%60 = concat %51 %59 {axis=2} : f32[2,2,5,16] !bwd
%61 = output %60 {name="dx"} : f32[2,2,5,16] !bwd
%62 = reshape %15 {shape=[4,2,16]} : f32[4,2,16] !bwd
%63 = reshape %27 {shape=[4,3,16]} : f32[4,3,16] !bwd
%64 = concat %62 %63 {axis=1} : f32[4,5,16] !bwd
%65 = reshape %64 {shape=[2,10,16]} : f32[2,10,16] !bwd
%66 = reshape %47 {shape=[4,2,8]} : f32[4,2,8] !bwd
%67 = reshape %55 {shape=[4,3,8]} : f32[4,3,8] !bwd
%68 = concat %66 %67 {axis=1} : f32[4,5,8] !bwd
%69 = reshape %68 {shape=[2,10,8]} : f32[2,10,8] !bwd
%70 = einsum %65 %69 {spec="ecd,ecf->edf"} : f32[2,16,8] !bwd
%71 = output %70 {name="dw"} : f32[2,16,8] !bwd
