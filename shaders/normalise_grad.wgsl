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
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if (row >= params.rows) { return; }
    let start = row * params.width;
    let end = start + params.width;
    let width = f32(params.width);
    var mean_g = 0.0;
    if (params.centred != 0u) {
        for (var j = start + lane; j < end; j += ROW_GROUP) {
            mean_g += g[params.g_offset + j];
        }
        mean_g = row_sum(mean_g, lane) / width;
    }
    var mean_gy = 0.0;
    for (var j = start + lane; j < end; j += ROW_GROUP) {
        mean_gy += g[params.g_offset + j] * y[params.y_offset + j];
    }
    mean_gy = row_sum(mean_gy, lane) / width;
    let rstd = rstds[params.rstd_offset + row];
    for (var j = start + lane; j < end; j += ROW_GROUP) {
        x[j] = rstd * (g[params.g_offset + j] - mean_g - y[params.y_offset + j] * mean_gy);
    }
}
