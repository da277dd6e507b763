// Rows added at an index: y[ids[j]] += rows[j], from zeros.
//
// Twin of src/device/cpu/gather.rs. The language adds floats atomically nowhere, so the host inverts
// the indices: `starts[t] .. starts[t + 1]` are the places in `positions` that name the rows for
// target t. One invocation sums one element of one target, in the order of the rows: the same bits
// each time. The targets may come in pieces, from `first` on, and so may the rows, `first_row ..
// first_row + held`: each pass adds to what those before it left.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    first: u32,
    first_row: u32,
    held: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let target_row = params.first + i / params.width;
    let column = params.offset + i % params.width;
    var sum = 0.0;
    if (params.first_row > 0u) {
        sum = y[i];
    }
    for (var j = starts[target_row]; j < starts[target_row + 1u]; j++) {
        let row = positions[j];
        if (row >= params.first_row && row - params.first_row < params.held) {
            sum += rows[column + (row - params.first_row) * params.width];
        }
    }
    y[i] = sum;
}
