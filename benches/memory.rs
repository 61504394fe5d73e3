//! What it costs that memory leaves nothing behind: freeing wiped, a key's place in the vault, the stack below a computation.

use claviger::{
    digest::{SealKey, SystemRandom},
    sys::{VaultBytes, WipingAllocator, scrub_stack},
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
};

fn pair(allocator: &impl GlobalAlloc, layout: Layout) {
    // SAFETY: allocated and freed with the same layout of some bytes, and not used in between but for one write.
    unsafe {
        let start = allocator.alloc(layout);
        black_box(start).write(1);
        allocator.dealloc(start, layout);
    }
}

fn memory(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("allocate and free");
    for size in [256, 1024, 8192, 65536] {
        let layout = Layout::from_size_align(size, 16).unwrap();
        group.bench_with_input(BenchmarkId::new("as the system does", size), &layout, |b, layout| b.iter(|| pair(&System, *layout)));
        group.bench_with_input(BenchmarkId::new("wiped", size), &layout, |b, layout| b.iter(|| pair(&WipingAllocator, *layout)));
    }
    group.finish();
    bench.bench_function("a key into the vault and out", |b| b.iter(|| black_box(VaultBytes::of(&[7; 32])).len()));
    bench.bench_function("scrub the stack", |b| b.iter(scrub_stack));
    let random = SystemRandom::default();
    let key = SealKey::generate(&random);
    let sealed = key.seal(b"place", &[1; 64], &random);
    bench.bench_function("open a sealed value of 64 bytes", |b| b.iter(|| key.open(b"place", &sealed).unwrap().len()));
}

criterion_group!(benches, memory);
criterion_main!(benches);
