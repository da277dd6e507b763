// Matrix product for adapters that compute on a processor: registers, and no workgroup memory.
//
// There a barrier is dear, workgroup memory is no faster than any other, and a load costs as much as
// many multiplications. One invocation computes a block of 16 x 16 elements and shares nothing. Each sum has
// a name: what is indexed in a loop lies in memory, not in registers, and takes eight times as long.

const HEIGHT = 16u;
const WIDTH = 16u;

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let tile = tile_of(id.x + id.y * groups.x * 8u, HEIGHT, WIDTH);
    if (tile.matrix >= params.batch) { return; }
    let rows0 = row_starts(tile, 0u);
    let rows1 = row_starts(tile, 4u);
    let rows2 = row_starts(tile, 8u);
    let rows3 = row_starts(tile, 12u);
    let columns0 = column_starts(tile, 0u);
    let columns1 = column_starts(tile, 4u);
    let columns2 = column_starts(tile, 8u);
    let columns3 = column_starts(tile, 12u);
    var sums00 = mat4x4<f32>();
    var sums01 = mat4x4<f32>();
    var sums02 = mat4x4<f32>();
    var sums03 = mat4x4<f32>();
    var sums10 = mat4x4<f32>();
    var sums11 = mat4x4<f32>();
    var sums12 = mat4x4<f32>();
    var sums13 = mat4x4<f32>();
    var sums20 = mat4x4<f32>();
    var sums21 = mat4x4<f32>();
    var sums22 = mat4x4<f32>();
    var sums23 = mat4x4<f32>();
    var sums30 = mat4x4<f32>();
    var sums31 = mat4x4<f32>();
    var sums32 = mat4x4<f32>();
    var sums33 = mat4x4<f32>();
    for (var k = 0u; k < params.k; k++) {
        let right0 = four_of_b(columns0 + k * params.b_row);
        let right1 = four_of_b(columns1 + k * params.b_row);
        let right2 = four_of_b(columns2 + k * params.b_row);
        let right3 = four_of_b(columns3 + k * params.b_row);
        let left0 = four_of_a(rows0 + k * params.a_column);
        sums00 += products(left0, right0);
        sums01 += products(left0, right1);
        sums02 += products(left0, right2);
        sums03 += products(left0, right3);
        let left1 = four_of_a(rows1 + k * params.a_column);
        sums10 += products(left1, right0);
        sums11 += products(left1, right1);
        sums12 += products(left1, right2);
        sums13 += products(left1, right3);
        let left2 = four_of_a(rows2 + k * params.a_column);
        sums20 += products(left2, right0);
        sums21 += products(left2, right1);
        sums22 += products(left2, right2);
        sums23 += products(left2, right3);
        let left3 = four_of_a(rows3 + k * params.a_column);
        sums30 += products(left3, right0);
        sums31 += products(left3, right1);
        sums32 += products(left3, right2);
        sums33 += products(left3, right3);
    }
    store_block(tile.matrix, tile.row + 0u, tile.column + 0u, sums00);
    store_block(tile.matrix, tile.row + 0u, tile.column + 4u, sums01);
    store_block(tile.matrix, tile.row + 0u, tile.column + 8u, sums02);
    store_block(tile.matrix, tile.row + 0u, tile.column + 12u, sums03);
    store_block(tile.matrix, tile.row + 4u, tile.column + 0u, sums10);
    store_block(tile.matrix, tile.row + 4u, tile.column + 4u, sums11);
    store_block(tile.matrix, tile.row + 4u, tile.column + 8u, sums12);
    store_block(tile.matrix, tile.row + 4u, tile.column + 12u, sums13);
    store_block(tile.matrix, tile.row + 8u, tile.column + 0u, sums20);
    store_block(tile.matrix, tile.row + 8u, tile.column + 4u, sums21);
    store_block(tile.matrix, tile.row + 8u, tile.column + 8u, sums22);
    store_block(tile.matrix, tile.row + 8u, tile.column + 12u, sums23);
    store_block(tile.matrix, tile.row + 12u, tile.column + 0u, sums30);
    store_block(tile.matrix, tile.row + 12u, tile.column + 4u, sums31);
    store_block(tile.matrix, tile.row + 12u, tile.column + 8u, sums32);
    store_block(tile.matrix, tile.row + 12u, tile.column + 12u, sums33);
}
