package measure

import (
	"encoding/hex"
	"slices"
	"testing"
)

// Values of an independent calculator (veraison/cca-realm-measurements, unit
// test of its realm_config): realm parameters alone.
func TestRealmParams(t *testing.T) {
	for h, want := range map[Hash]string{
		SHA256: "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973",
		SHA512: "799e434048fb57eb9d4f0e2a2b98158720377252deab2bdfcd69b5a8f82237f434bd6bb1c75bf160a2d49382f733b3439a3ff769e4ea5dd9a6f72239d44bbbab",
	} {
		r, err := New(Params{IPABits: 48, Breakpoints: 2, Watchpoints: 2, Hash: h})
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(r.Value()); got != want {
			t.Errorf("hash %d: %s, want %s", h, got, want)
		}
	}
}

// Sizes from the same calculator's tests.
func TestBlocks(t *testing.T) {
	for ipa, want := range map[int]uint64{52: 0x8040201000, 48: 0x8040201000, 44: 0x8040201000, 43: 0x40201000, 40: 0x40201000, 39: 0x40201000, 35: 0x40201000, 34: 0x201000} {
		var got uint64
		b := blockSizes(ipa)
		for _, s := range b {
			got |= s
		}
		if got != want || !slices.IsSortedFunc(b, func(x, y uint64) int { return int(y) - int(x) }) {
			t.Errorf("%d bits: %#x, want %#x", ipa, got, want)
		}
	}
	r := &RIM{blocks: blockSizes(40)}
	for _, c := range [][3]uint64{
		{0, 0x1000, 0x1000}, {0x40000000, 0x80000000, 0x40000000}, {0x80000000, 0x80200000, 0x200000}, {0x80001000, 0x80200000, 0x1000},
		{0x6200000, 0x70000000, 0x200000}, {0x6300000, 0x70000000, 0x1000}, {0x400000, 0x800000, 0x200000}, {0x400000, 0x500000, 0x1000},
	} {
		if got := r.block(c[0], c[1]); got != c[2] {
			t.Errorf("%#x to %#x: %#x, want %#x", c[0], c[1], got, c[2])
		}
	}
}
