/* cublaslt.h: the part of cuBLASLt that m6c uses, declared here and loaded with dlopen. Its
 * matrices are column-major. */
#ifndef M6C_CUBLASLT_H
#define M6C_CUBLASLT_H

#include "runtime/cuda_api.h"

typedef struct cublasLtContext *LtHandle;
typedef struct LtProductRec *LtProduct;       /* what is multiplied, and how exactly */
typedef struct LtLayoutRec *LtLayout;         /* of a matrix, or of a batch of them */
typedef struct LtPreferenceRec *LtPreference; /* what a heuristic may propose */

/* May be kept as bytes for the same version of the library. */
typedef struct {
    uint64_t data[8];
} LtAlgo;

typedef struct {
    LtAlgo algo;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} LtHeuristic;

/* The library's numbers. */
enum {
    LT_F32 = 0,
    LT_F64 = 1,
    LT_F16 = 2,
    LT_BF16 = 14,
    LT_COMPUTE_F32 = 68, /* no TF32 */
    LT_COMPUTE_F64 = 70,
    LT_TRANSPOSE_A = 3, /* attributes of a product; the value 1 transposes */
    LT_TRANSPOSE_B = 4,
    LT_EPILOGUE = 7, /* 32 bits: the sum of … */
    LT_EPILOGUE_DEFAULT = 1,
    LT_EPILOGUE_BIAS = 4,
    LT_EPILOGUE_SUMS = 16,
    LT_EPILOGUE_GELU = 32,
    LT_EPILOGUE_GELU_GRAD = 64,
    LT_EPILOGUE_AUX = 128, /* … these */
    LT_BIAS = 8,           /* its pointers, and where rows and batches of the second one begin */
    LT_AUX = 11,
    LT_AUX_LD = 12,
    LT_AUX_STRIDE = 13,
    LT_BATCH_COUNT = 5, /* attributes of a layout */
    LT_BATCH_STRIDE = 6,
    LT_MAX_WORKSPACE = 1, /* attributes of a preference; alignments of a, b, c, d */
    LT_ALIGN_A = 5,
    LT_ALIGN_B = 6,
    LT_ALIGN_C = 7,
    LT_ALIGN_D = 8
};

typedef struct {
#define LT(type, name, args) type(*name) args;
#include "runtime/cublaslt.def"
#undef LT
} CublasLt;

/* The library is libcublasLt.so.13 or .12, then those of /usr/local/cuda/lib64, or what
 * M6C_CUBLASLT names. EXIT_SYSTEM when there is none. It stays loaded. */
Status cublaslt_open(CublasLt *lt);
Status cublaslt_status(const CublasLt *lt, int status, const char *call);

#define LT_TRY(lt, name, ...) TRY(cublaslt_status((lt), (lt)->name(__VA_ARGS__), #name))

#endif
