"""Triton kernels of the Haar L1 loss for channels_last tensors: as `haar_l1_triton`, with lanes over the channels.

The pixels of a block are separate tensors [blocks, channels], so every butterfly is a plain sum. With 3 channels lanes
load single values, at addresses without gaps: memory moves the same bytes, in more instructions.

The signs have the bits of `haar_l1_triton`, one byte (L = 1) or word (L = 2) for a block and channel, (B, blocks, C),
or four words, (B, blocks, 4, C), for L = 3: upper left, upper right, lower left, lower right.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mtkd_kernels.haar_l1_triton import analyse, butterfly, code, inverse, signed


@triton.jit
def place(BLOCK_ROWS, BLOCK_COLUMNS, channels, L: tl.constexpr, R: tl.constexpr, CB: tl.constexpr):
    """Image, row of blocks x channels (offset and mask of one value a block), offset of their first pixels, tile."""
    S: tl.constexpr = 2**L
    blocks = BLOCK_ROWS * BLOCK_COLUMNS
    across = tl.cdiv(channels, CB)
    tiles = across * tl.cdiv(blocks, R)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    block = (tile // across) * R + tl.arange(0, R)
    channel = (tile % across) * CB + tl.arange(0, CB)
    mask = (block < blocks)[:, None] & (channel < channels)[None, :]
    pixel = (block // BLOCK_COLUMNS) * S * (BLOCK_COLUMNS * S) + (block % BLOCK_COLUMNS) * S
    pixels = image * (blocks * S * S) * channels + pixel[:, None] * channels + channel[None, :]
    return image, image * blocks + block[:, None], channel[None, :], pixels, mask, tile


@triton.jit
def word(codes1, codes2, ROW: tl.constexpr, COLUMN: tl.constexpr, N: tl.constexpr):
    """The codes of 4x4 block (ROW, COLUMN) without LL, of N x N of them."""
    return (
        codes1[4 * ROW * N + 2 * COLUMN]
        | (codes1[4 * ROW * N + 2 * COLUMN + 1] << 6)
        | (codes1[(4 * ROW + 2) * N + 2 * COLUMN] << 12)
        | (codes1[(4 * ROW + 2) * N + 2 * COLUMN + 1] << 18)
        | (codes2[ROW * N + COLUMN] << 24)
    )


@triton.jit
def haar_l1_forward_nhwc(
    input_ptr,
    target_ptr,
    codes_ptr,
    low_ptr,
    partial_ptr,
    BLOCK_ROWS,
    BLOCK_COLUMNS,
    channels,
    partial_stride,
    lh1,
    hl1,
    hh1,
    lh2,
    hl2,
    hh2,
    lh3,
    hl3,
    hh3,
    ll,
    L: tl.constexpr,
    LAST: tl.constexpr,
    DIFFER: tl.constexpr,
    R: tl.constexpr,
    CB: tl.constexpr,
):
    """As `haar_l1_forward`, on (B, H, W, C); partial is [B, partial_stride], low (B, H/8, W/8, C)."""
    S: tl.constexpr = 2**L
    image, block, channel, pixels, mask, tile = place(BLOCK_ROWS, BLOCK_COLUMNS, channels, L, R, CB)
    row_stride = BLOCK_COLUMNS * S * channels
    x = ()
    for i in tl.static_range(S):
        for j in tl.static_range(S):
            d = tl.load(input_ptr + pixels + (i * row_stride + j * channels), mask=mask, other=0).to(tl.float32)
            if DIFFER:
                t = tl.load(target_ptr + pixels + (i * row_stride + j * channels), mask=mask, other=0)
                if target_ptr.dtype.element_ty == tl.uint8:
                    d -= t.to(tl.float32) * (1 / 255)
                else:
                    d -= t.to(tl.float32)
            x = x + (d,)
    x, codes1, sum_lh, sum_hl, sum_hh = analyse(x, S, S, False, R, CB)
    loss = lh1 * sum_lh + hl1 * sum_hl + hh1 * sum_hh
    if L == 1:
        codes = codes1[0]
        if LAST:
            codes |= code(x[0]) << 6
        tl.store(codes_ptr + block * channels + channel, codes.to(tl.uint8), mask=mask)
    else:
        x, codes2, sum_lh, sum_hl, sum_hh = analyse(x, S // 2, S // 2, False, R, CB)
        loss += lh2 * sum_lh + hl2 * sum_hl + hh2 * sum_hh
        if L == 2:
            codes = word(codes1, codes2, 0, 0, 1)
            if LAST:
                codes |= code(x[0]) << 30
            tl.store(codes_ptr + block * channels + channel, codes, mask=mask)
        else:
            low, c_lh, c_hl, c_hh = butterfly(x[0], x[1], x[2], x[3])
            loss += lh3 * tl.abs(c_lh) + hl3 * tl.abs(c_hl) + hh3 * tl.abs(c_hh)
            x = (low,)
            words = codes_ptr + block * 4 * channels + channel
            tl.store(words, word(codes1, codes2, 0, 0, 2) | (code(c_lh) << 30), mask=mask)
            tl.store(words + channels, word(codes1, codes2, 0, 1, 2) | (code(c_hl) << 30), mask=mask)
            tl.store(words + 2 * channels, word(codes1, codes2, 1, 0, 2) | (code(c_hh) << 30), mask=mask)
            last = word(codes1, codes2, 1, 1, 2)
            if LAST:
                last |= code(low) << 30
            tl.store(words + 3 * channels, last, mask=mask)
    if LAST:
        loss += ll * tl.abs(x[0])
    else:
        tl.store(low_ptr + block * channels + channel, x[0], mask=mask)
    tl.store(partial_ptr + image * partial_stride + tile, tl.sum(loss))


@triton.jit
def store_blocks(pointers, values, row_stride, channels, mask):
    """The four pixels of 2x2 blocks."""
    for k in tl.static_range(4):
        value = values[k].to(pointers.dtype.element_ty)
        tl.store(pointers + ((k // 2) * row_stride + (k % 2) * channels), value, mask=mask)


@triton.jit
def haar_l1_backward_nhwc(
    codes_ptr,
    low_ptr,
    upstream_ptr,
    gradient_ptr,
    BLOCK_ROWS,
    BLOCK_COLUMNS,
    channels,
    upstream_stride,
    lh1,
    hl1,
    hh1,
    lh2,
    hl2,
    hh2,
    lh3,
    hl3,
    hh3,
    ll,
    L: tl.constexpr,
    LAST: tl.constexpr,
    R: tl.constexpr,
    CB: tl.constexpr,
):
    """As `haar_l1_backward`, on (B, H, W, C)."""
    S: tl.constexpr = 2**L
    image, block, channel, pixels, mask, tile = place(BLOCK_ROWS, BLOCK_COLUMNS, channels, L, R, CB)
    row_stride = BLOCK_COLUMNS * S * channels
    upstream = tl.load(upstream_ptr + image * upstream_stride).to(tl.float32)
    lh1, hl1, hh1, ll = lh1 * upstream, hl1 * upstream, hh1 * upstream, ll * upstream
    lh2, hl2, hh2 = lh2 * upstream, hl2 * upstream, hh2 * upstream
    if LAST:
        low = tl.zeros((R, CB), tl.float32)
    else:
        low = tl.load(low_ptr + block * channels + channel, mask=mask, other=0)
    out = gradient_ptr + pixels
    if L == 1:
        q = tl.load(codes_ptr + block * channels + channel, mask=mask, other=0).to(tl.int32)
        if LAST:
            low = signed(q, 6, ll)
        values = inverse(low, signed(q, 0, lh1), signed(q, 2, hl1), signed(q, 4, hh1))
        store_blocks(out, values, row_stride, channels, mask)
    else:
        N: tl.constexpr = S // 4
        words = ()
        for k in tl.static_range(N * N):
            words = words + (tl.load(codes_ptr + (block * (N * N) + k) * channels + channel, mask=mask, other=0),)
        if LAST:
            low = signed(words[N * N - 1], 30, ll)
        lows = (low,)
        if L == 3:
            c_lh = signed(words[0], 30, lh3 * upstream)
            c_hl = signed(words[1], 30, hl3 * upstream)
            c_hh = signed(words[2], 30, hh3 * upstream)
            lows = inverse(low, c_lh, c_hl, c_hh)
        for k in tl.static_range(N * N):
            q = words[k]
            fine = inverse(lows[k], signed(q, 24, lh2), signed(q, 26, hl2), signed(q, 28, hh2))
            for m in tl.static_range(4):
                p = q >> (6 * m)
                values = inverse(fine[m], signed(p, 0, lh1), signed(p, 2, hl1), signed(p, 4, hh1))
                corner = out + ((4 * (k // N) + 2 * (m // 2)) * row_stride + (4 * (k % N) + 2 * (m % 2)) * channels)
                store_blocks(corner, values, row_stride, channels, mask)
