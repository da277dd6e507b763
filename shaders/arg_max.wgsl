// The first position of the largest element of each row; NaN is largest.
//
// Twin of src/device/cpu/sort.rs. One workgroup searches one row.

struct Params {
    rows: u32,
    width: u32,
    offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const GROUP = 64u;
var<workgroup> keys: array<u32, GROUP>;
var<workgroup> places: array<u32, GROUP>;

@compute @workgroup_size(GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if (row >= params.rows) { return; }
    // Key 0 belongs to no number, so any element wins over the start.
    var best = 0u;
    var place = 0u;
    for (var j = lane; j < params.width; j += GROUP) {
        let key = order_key(x[params.offset + row * params.width + j]);
        if (key > best) {
            best = key;
            place = j;
        }
    }
    keys[lane] = best;
    places[lane] = place;
    workgroupBarrier();
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let other = keys[lane + half];
            let further = places[lane + half];
            if (other > keys[lane] || (other == keys[lane] && further < places[lane])) {
                keys[lane] = other;
                places[lane] = further;
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        y[row] = f32(places[0]);
    }
}
