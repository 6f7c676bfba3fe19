// Package protofield reads protobuf messages of which a few fields are wanted, without the
// modules that describe them.
//
// Trust zone: host. What it reads is of the node's own services.
package protofield

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Each calls f with each field of a message: with v, which is not nil, or with n for a
// number. Fields of other kinds are passed over.
func Each(b []byte, f func(num protowire.Number, v []byte, n uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var err error
		switch typ {
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				err = f(num, v, 0)
			}
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				err = f(num, nil, v)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			err = protowire.ParseError(n)
		}
		if err != nil {
			return fmt.Errorf("field %d: %w", num, err)
		}
		b = b[n:]
	}
	return nil
}
