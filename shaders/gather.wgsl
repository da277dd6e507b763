// Rows of a table by index; zeros for an ignored one.
//
// Twin of src/device/cpu/gather.rs. One invocation copies one element. A table too large for one
// binding comes in pieces of rows `first .. first + rows`; each pass writes the rows it finds, and
// the first one also the ignored ones.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    first: u32,
    rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let row = ids[i / params.width];
    if (row == IGNORED) {
        if (params.first == 0u) {
            y[i] = 0.0;
        }
    } else if (row >= params.first && row - params.first < params.rows) {
        y[i] = table[params.offset + (row - params.first) * params.width + i % params.width];
    }
}
