// The positions that sort each row; equal elements keep their order, NaN is largest.
//
// Twin of src/device/cpu/sort.rs. One invocation counts the elements that come before its own: that
// is the element's place. Quadratic in the width, with no barrier and no second pass.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    flip: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let start = i - i % params.width;
    // With `flip` all ones the largest key becomes the smallest: descending order.
    let own = order_key(x[params.offset + i]) ^ params.flip;
    var before = 0u;
    for (var j = start; j < start + params.width; j++) {
        let key = order_key(x[params.offset + j]) ^ params.flip;
        before += select(0u, 1u, key < own || (key == own && j < i));
    }
    y[start + before] = f32(i - start);
}
