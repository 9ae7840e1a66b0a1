// A small generator of its own: a failure says its seed and can be had again.
export function random(seed) {
    let x = seed >>> 0 || 1;
    return (n) => {
        x ^= x << 13;
        x ^= x >>> 17;
        x ^= x << 5;
        return (x >>> 0) % n;
    };
}
