// Matrix product, second rung: a workgroup shares what it reads.
//
// A workgroup of 16 x 16 invocations computes a tile of 16 x 16 elements, one each. It walks along k
// in steps of 16: everybody fetches one element of `a` and one of `b`, and all 256 are used 16 times.

const TILE = 16u;

var<workgroup> a_tile: array<array<f32, TILE>, TILE>;
var<workgroup> b_tile: array<array<f32, TILE>, TILE>;

@compute @workgroup_size(TILE, TILE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let tile = tile_of(flat_group(group, groups), TILE, TILE);
    if (tile.matrix >= params.batch) { return; }
    let a_start = a_base(tile.matrix);
    let b_start = b_base(tile.matrix);
    let row = tile.row + local.y;
    let column = tile.column + local.x;
    var sum = 0.0;
    for (var start = 0u; start < params.k; start += TILE) {
        a_tile[local.y][local.x] = a_at(a_start, row, start + local.x);
        b_tile[local.y][local.x] = b_at(b_start, start + local.y, column);
        workgroupBarrier();
        for (var k = 0u; k < TILE; k++) {
            sum += a_tile[local.y][k] * b_tile[k][local.x];
        }
        workgroupBarrier();
    }
    if (row < params.m && column < params.n) {
        store(tile.matrix, row, column, sum);
    }
}
