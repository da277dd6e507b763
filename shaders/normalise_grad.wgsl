// The gradient of normalise by x: rstd·(n - mean(n) - z·mean(n·z)) of each row, where z = (x - mean)·rstd
// is what was normalised and n = g·weight its gradient.
//
// Twin of src/device/cpu/normalise.rs. One workgroup computes one row. Without `centred` the mean of
// n counts as 0.

struct Params {
    rows: u32,
    width: u32,
    x_offset: u32,
    weight_offset: u32,
    statistics_offset: u32,
    g_offset: u32,
    centred: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> statistics: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let start = row * params.width;
    let width = f32(params.width);
    let mean = statistics[params.statistics_offset + 2u * row];
    let rstd = statistics[params.statistics_offset + 2u * row + 1u];
    var mean_n = 0.0;
    if (params.centred != 0u) {
        for (var j = first; j < params.width; j += ROW_STEP) {
            mean_n += g[params.g_offset + start + j] * weight[params.weight_offset + j];
        }
        mean_n = row_sum(mean_n, here) / width;
    }
    var mean_nz = 0.0;
    for (var j = first; j < params.width; j += ROW_STEP) {
        let n = g[params.g_offset + start + j] * weight[params.weight_offset + j];
        mean_nz += n * ((x[params.x_offset + start + j] - mean) * rstd);
    }
    mean_nz = row_sum(mean_nz, here) / width;
    for (var j = first; j < params.width; j += ROW_STEP) {
        let n = g[params.g_offset + start + j] * weight[params.weight_offset + j];
        let z = (x[params.x_offset + start + j] - mean) * rstd;
        dx[start + j] = rstd * (n - mean_n - z * mean_nz);
    }
}
