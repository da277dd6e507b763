// The gradient of softmax of each row: y·(g - sum(g·y)).
//
// Twin of src/device/cpu/softmax.rs. One workgroup computes one row.

struct Params {
    rows: u32,
    width: u32,
    y_offset: u32,
    g_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let start = row * params.width;
    var dot = 0.0;
    for (var j = start + first; j < start + params.width; j += ROW_STEP) {
        dot += y[params.y_offset + j] * g[params.g_offset + j];
    }
    dot = row_sum(dot, here);
    for (var j = start + first; j < start + params.width; j += ROW_STEP) {
        x[j] = y[params.y_offset + j] * (g[params.g_offset + j] - dot);
    }
}
