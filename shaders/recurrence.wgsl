// h[t] = decay[t]·h[t-1] + input[t] along each row, from h[-1] = 0.
//
// Twin of src/device/cpu/recurrence.rs. One invocation walks one row.

struct Params {
    rows: u32,
    width: u32,
    decay_offset: u32,
    input_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> decay: array<f32>;
@group(0) @binding(2) var<storage, read> input: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups);
    if (row >= params.rows) { return; }
    var h = 0.0;
    for (var j = row * params.width; j < (row + 1u) * params.width; j++) {
        h = decay[params.decay_offset + j] * h + input[params.input_offset + j];
        y[j] = h;
    }
}
