// The positions that sort each row; equal elements keep their order, NaN is largest.
//
// Twin of src/device/cpu/sort.rs. First `sort_runs`: one invocation counts which elements of its run
// of 64 come before its own, and that is the element's place. Then the host runs `merge` until one
// run is left: each element keeps its place in its own run and adds the number of elements of the
// neighbouring run that come before it, found by halving.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    // All ones turn the largest key into the smallest: descending order.
    flip: u32,
    run: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn key_at(row: u32, place: u32) -> u32 {
    return order_key(x[params.offset + row + place]) ^ params.flip;
}

@compute @workgroup_size(ELEMENT_GROUP)
fn sort_runs(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let column = i % params.width;
    let row = i - column;
    let start = column - column % params.run;
    let own = key_at(row, column);
    var place = row + start;
    for (var j = start; j < min(start + params.run, params.width); j++) {
        let key = key_at(row, j);
        place += select(0u, 1u, key < own || (key == own && j < column));
    }
    y[place] = f32(column);
}

@compute @workgroup_size(ELEMENT_GROUP)
fn merge(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= params.count) { return; }
    let column = i % params.width;
    let row = i - column;
    let pair = column - column % (2u * params.run);
    let middle = min(pair + params.run, params.width);
    let is_left = column < middle;
    let own = key_at(row, u32(order[i]));
    // The neighbouring run; of equal keys the left one comes first.
    var low = select(pair, middle, is_left);
    let other = low;
    var high = select(middle, min(middle + params.run, params.width), is_left);
    while (low < high) {
        let probe = (low + high) / 2u;
        let key = key_at(row, u32(order[row + probe]));
        if (key < own || (key == own && !is_left)) {
            low = probe + 1u;
        } else {
            high = probe;
        }
    }
    let within = column - select(middle, pair, is_left);
    y[row + pair + within + (low - other)] = order[i];
}
