// Elementwise programs: one formula on each element.
//
// Twin of src/device/cpu/elementwise.rs. One invocation computes one element of every output; a
// workgroup is 256 neighbours. The lines of the program take the place of the marker, and the
// bindings in0, in1, .., out0, .. are put behind this file (src/device/gpu/render.rs). Numbers,
// seeds, offsets and strides are words of the parameters: a changed learning rate is no new shader.

// Word 0: elements to compute. Word 1: the position of the first one. Further words: see render.rs.
@group(0) @binding(0) var<uniform> words: array<vec4<u32>, 32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups);
    if (at >= words[0].x) { return; }
    let i = words[0].y + at;
    //PROGRAM//
}
