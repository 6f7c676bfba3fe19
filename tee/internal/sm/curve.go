package sm

import "math/big"

func hexInt(s string) *big.Int {
	v, ok := new(big.Int).SetString(s, 16)
	if !ok {
		panic("sm: a constant is not hex")
	}
	return v
}

// The recommended curve (GB/T 32918.5-2017): y^2 = x^3 - 3x + b over GF(p), with n
// points and the base point g.
var (
	p  = hexInt("fffffffeffffffffffffffffffffffffffffffff00000000ffffffffffffffff")
	b  = hexInt("28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93")
	n  = hexInt("fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123")
	gx = hexInt("32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7")
	gy = hexInt("bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0")
	a  = new(big.Int).Sub(p, big.NewInt(3))
)

// Size is the length of a coordinate or scalar, in bytes.
const Size = 32

// point is in Jacobian coordinates: x/z^2, y/z^3; z = 0 is the neutral point.
type point struct{ x, y, z element }

func neutral() *point { return new(point) }

func affine(x, y *big.Int) *point {
	return &point{*toElement(x), *toElement(y), *toElement(big.NewInt(1))}
}

// double is 2q (formulas "dbl-2001-b" for a = -3).
func (q *point) double() *point {
	if q.z.isZero() || q.y.isZero() {
		return neutral()
	}
	var delta, gamma, beta, alpha, t, u element
	delta.mul(&q.z, &q.z)
	gamma.mul(&q.y, &q.y)
	beta.mul(&q.x, &gamma)
	t.sub(&q.x, &delta)
	u.add(&q.x, &delta)
	t.mul(&t, &u)
	alpha.add(&t, &t)
	alpha.add(&alpha, &t)

	out := new(point)
	beta.times4(&beta)
	t.add(&beta, &beta)
	out.x.mul(&alpha, &alpha)
	out.x.sub(&out.x, &t)
	t.add(&q.y, &q.z)
	out.z.mul(&t, &t)
	out.z.sub(&out.z, &gamma)
	out.z.sub(&out.z, &delta)
	t.sub(&beta, &out.x)
	out.y.mul(&alpha, &t)
	gamma.mul(&gamma, &gamma)
	gamma.times4(&gamma)
	gamma.add(&gamma, &gamma)
	out.y.sub(&out.y, &gamma)
	return out
}

func (e *element) times4(u *element) *element {
	e.add(u, u)
	return e.add(e, e)
}

// add is q + r (formulas "add-1998-cmo-2", with their special cases).
func (q *point) add(r *point) *point {
	if q.z.isZero() {
		return r
	}
	if r.z.isZero() {
		return q
	}
	var qz, rz, u1, u2, s1, s2, h, d, hh, hhh, v, t element
	qz.mul(&q.z, &q.z)
	rz.mul(&r.z, &r.z)
	u1.mul(&q.x, &rz)
	u2.mul(&r.x, &qz)
	s1.mul(&q.y, rz.mul(&rz, &r.z))
	s2.mul(&r.y, qz.mul(&qz, &q.z))
	h.sub(&u2, &u1)
	d.sub(&s2, &s1)
	if h.isZero() {
		if d.isZero() {
			return q.double()
		}
		return neutral()
	}
	hh.mul(&h, &h)
	hhh.mul(&hh, &h)
	v.mul(&u1, &hh)
	out := new(point)
	out.x.mul(&d, &d)
	out.x.sub(&out.x, &hhh)
	out.x.sub(&out.x, t.add(&v, &v))
	v.sub(&v, &out.x)
	out.y.mul(&d, &v)
	out.y.sub(&out.y, s1.mul(&s1, &hhh))
	out.z.mul(&q.z, &r.z)
	out.z.mul(&out.z, &h)
	return out
}

// combine is k*q + l*r. All are public, so its time may depend on them.
func combine(k *big.Int, q *point, l *big.Int, r *point) *point {
	both, out := q.add(r), neutral()
	for i := max(k.BitLen(), l.BitLen()) - 1; i >= 0; i-- {
		out = out.double()
		switch kb, lb := k.Bit(i), l.Bit(i); {
		case kb == 1 && lb == 1:
			out = out.add(both)
		case kb == 1:
			out = out.add(q)
		case lb == 1:
			out = out.add(r)
		}
	}
	return out
}

// affine gives the coordinates; ok is false for the neutral point.
func (q *point) affine() (x, y *big.Int, ok bool) {
	if q.z.isZero() {
		return nil, nil, false
	}
	inv := toElement(new(big.Int).ModInverse(q.z.int(), p))
	var square, cube element
	square.mul(inv, inv)
	cube.mul(&square, inv)
	return square.mul(&square, &q.x).int(), cube.mul(&cube, &q.y).int(), true
}

func onCurve(x, y *big.Int) bool {
	left := new(big.Int).Mul(y, y)
	right := new(big.Int).Mul(x, x)
	right.Add(right, a)
	right.Mul(right, x)
	right.Add(right, b)
	return right.Sub(right, left).Mod(right, p).Sign() == 0
}
