package sm

import (
	"encoding/binary"
	"math/big"
	"math/bits"
)

// element is a number modulo p in Montgomery form (times 2^256), four limbs from
// the lowest, always reduced.
type element [4]uint64

// prime is p. Its lowest limb is -1 modulo 2^64, so Montgomery's factor is 1.
var prime = element{0xffffffffffffffff, 0xffffffff00000000, 0xffffffffffffffff, 0xfffffffeffffffff}

// square256 is 2^512 modulo p, which brings numbers into Montgomery form.
var square256 = limbs(new(big.Int).Mod(new(big.Int).Lsh(big.NewInt(1), 512), p))

func limbs(v *big.Int) (e element) {
	var buf [32]byte
	v.FillBytes(buf[:])
	for i := range e {
		e[i] = binary.BigEndian.Uint64(buf[24-8*i:])
	}
	return e
}

func toElement(v *big.Int) *element {
	e := limbs(v)
	return new(element).mul(&e, &square256)
}

func (e *element) int() *big.Int {
	plain := new(element).mul(e, &element{1})
	var buf [32]byte
	for i, l := range plain {
		binary.BigEndian.PutUint64(buf[24-8*i:], l)
	}
	return new(big.Int).SetBytes(buf[:])
}

func (e *element) isZero() bool { return *e == element{} }

// reduce subtracts p where the value, with its carry, is not below it.
func (e *element) reduce(carry uint64) *element {
	var d element
	var borrow uint64
	for i := range d {
		d[i], borrow = bits.Sub64(e[i], prime[i], borrow)
	}
	if _, borrow = bits.Sub64(carry, 0, borrow); borrow == 0 {
		*e = d
	}
	return e
}

func (e *element) add(u, v *element) *element {
	var carry uint64
	for i := range e {
		e[i], carry = bits.Add64(u[i], v[i], carry)
	}
	return e.reduce(carry)
}

func (e *element) sub(u, v *element) *element {
	var borrow uint64
	for i := range e {
		e[i], borrow = bits.Sub64(u[i], v[i], borrow)
	}
	if borrow != 0 {
		var carry uint64
		for i := range e {
			e[i], carry = bits.Add64(e[i], prime[i], carry)
		}
	}
	return e
}

// mul is u*v/2^256 (Montgomery multiplication, limb by limb).
func (e *element) mul(u, v *element) *element {
	var t accumulator
	for _, k := range u {
		top := t.addMul(k, v)
		// Adding t[0] times p clears the lowest limb, since p is -1 there.
		top += t.addMul(t[0], &prime)
		copy(t[:], t[1:])
		t[4] = top
	}
	*e = element(t[:4])
	return e.reduce(t[4])
}

// accumulator is a sum in the making.
type accumulator [5]uint64

// addMul adds k*v and gives the carry out of the highest limb.
func (t *accumulator) addMul(k uint64, v *element) uint64 {
	var carry uint64
	for i, l := range v {
		hi, lo := bits.Mul64(k, l)
		var c uint64
		lo, c = bits.Add64(lo, t[i], 0)
		hi += c
		t[i], c = bits.Add64(lo, carry, 0)
		carry = hi + c
	}
	var c uint64
	t[4], c = bits.Add64(t[4], carry, 0)
	return c
}
