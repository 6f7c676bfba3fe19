package sm

import (
	"crypto/rand"
	"math/big"
	"testing"
)

// The field's arithmetic is that of math/big, at its edges too.
func TestField(t *testing.T) {
	values := []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(p, big.NewInt(1)), new(big.Int).Sub(p, big.NewInt(2)), gx, gy, b,
		new(big.Int).Lsh(big.NewInt(1), 255), new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 224), big.NewInt(1))}
	for range 40 {
		v, err := rand.Int(rand.Reader, p)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	for _, u := range values {
		for _, v := range values {
			eu, ev := toElement(u), toElement(v)
			for name, c := range map[string][2]*big.Int{
				"mul": {new(element).mul(eu, ev).int(), new(big.Int).Mul(u, v)},
				"add": {new(element).add(eu, ev).int(), new(big.Int).Add(u, v)},
				"sub": {new(element).sub(eu, ev).int(), new(big.Int).Sub(u, v)},
			} {
				if c[0].Cmp(new(big.Int).Mod(c[1], p)) != 0 {
					t.Fatalf("%s of %x and %x: %x", name, u, v, c[0])
				}
			}
		}
	}
}

// Sums that the formulas treat apart: equal points, opposite ones, the neutral.
func TestGroup(t *testing.T) {
	g := affine(gx, gy)
	minus := affine(gx, new(big.Int).Sub(p, gy))
	same := func(name string, got, want *point) {
		t.Helper()
		x1, y1, ok1 := got.affine()
		x2, y2, ok2 := want.affine()
		if ok1 != ok2 || ok1 && (x1.Cmp(x2) != 0 || y1.Cmp(y2) != 0) {
			t.Errorf("%s: %x %x, want %x %x", name, x1, y1, x2, y2)
		}
	}
	same("g + g", g.add(g), g.double())
	same("g - g", g.add(minus), neutral())
	same("g + 0", g.add(neutral()), g)
	same("0 + g", neutral().add(g), g)
	same("2 * 0", neutral().double(), neutral())
	same("2g + g - g", g.double().add(g).add(minus), g.double())
	same("n g", combine(n, g, new(big.Int), g), neutral())
	same("(n-1) g", combine(new(big.Int).Sub(n, big.NewInt(1)), g, new(big.Int), g), minus)
	same("5g + 7(2g)", combine(big.NewInt(5), g, big.NewInt(7), g.double()), combine(big.NewInt(19), g, new(big.Int), g))
	same("g + (n-1)g", combine(big.NewInt(1), g, new(big.Int).Sub(n, big.NewInt(1)), g), neutral())
}
