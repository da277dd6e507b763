// Softmax of each row: exp(x - max) / sum.
//
// Twin of src/device/cpu/softmax.rs. One workgroup computes one row, its invocations every 64th
// element. The largest element is found from a finite start, so a row of -inf gives NaN and no trap.

struct Params {
    rows: u32,
    width: u32,
    offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if (row >= params.rows) { return; }
    let source = params.offset + row * params.width;
    let place = row * params.width;
    var largest = LOWEST;
    for (var j = lane; j < params.width; j += ROW_GROUP) {
        largest = max(largest, x[source + j]);
    }
    largest = row_max(largest, lane);
    var sum = 0.0;
    for (var j = lane; j < params.width; j += ROW_GROUP) {
        let term = exp_of(x[source + j] - largest);
        y[place + j] = term;
        sum += term;
    }
    sum = row_sum(sum, lane);
    for (var j = lane; j < params.width; j += ROW_GROUP) {
        y[place + j] = y[place + j] / sum;
    }
}
