// Sums and maxima over a workgroup that shares one row.
//
// Each invocation first folds the elements it visits, then the workgroup folds those in a tree of
// six levels. Every invocation must call these functions, and gets the same result.

// Invocations per workgroup of kernels in which a workgroup shares one row.
const ROW_GROUP = 64u;

var<workgroup> shared_values: array<f32, ROW_GROUP>;

fn row_sum(part: f32, lane: u32) -> f32 {
    shared_values[lane] = part;
    workgroupBarrier();
    for (var half = ROW_GROUP / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            shared_values[lane] += shared_values[lane + half];
        }
        workgroupBarrier();
    }
    let sum = shared_values[0];
    workgroupBarrier();
    return sum;
}

fn row_max(part: f32, lane: u32) -> f32 {
    shared_values[lane] = part;
    workgroupBarrier();
    for (var half = ROW_GROUP / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            shared_values[lane] = maximum(shared_values[lane], shared_values[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = shared_values[0];
    workgroupBarrier();
    return largest;
}
