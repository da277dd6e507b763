// The gradient of normalise: rstd·(g - mean(g) - y·mean(g·y)) of each row.
//
// Twin of src/device/cpu/normalise.rs. One workgroup computes one row. Without `centred` the mean of
// g counts as 0.

struct Params {
    rows: u32,
    width: u32,
    y_offset: u32,
    rstd_offset: u32,
    g_offset: u32,
    centred: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> rstds: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let start = row * params.width;
    let end = start + params.width;
    let width = f32(params.width);
    var mean_g = 0.0;
    if (params.centred != 0u) {
        for (var j = start + first; j < end; j += ROW_STEP) {
            mean_g += g[params.g_offset + j];
        }
        mean_g = row_sum(mean_g, here) / width;
    }
    var mean_gy = 0.0;
    for (var j = start + first; j < end; j += ROW_STEP) {
        mean_gy += g[params.g_offset + j] * y[params.y_offset + j];
    }
    mean_gy = row_sum(mean_gy, here) / width;
    let rstd = rstds[params.rstd_offset + row];
    for (var j = start + first; j < end; j += ROW_STEP) {
        x[j] = rstd * (g[params.g_offset + j] - mean_g - y[params.y_offset + j] * mean_gy);
    }
}
