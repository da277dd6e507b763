// Arrays behind one another along an axis.
//
// Twin of src/device/cpu/concat.rs. The host runs it once per part; one invocation copies one element
// of that part: row `r` of the part (all axes before the joined one) becomes the elements from
// `start` on in row `r` of the result.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    total: u32,
    start: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> part: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    y[(i / params.width) * params.total + params.start + i % params.width] = part[params.offset + i];
}
