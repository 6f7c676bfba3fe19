// Package ocicrypt reads encrypted image layers: the "ocicrypt" format of the
// containers project (its spec/encryption.md) with the key provider
// "attestation-agent" (shared spec guest-components, section 4).
//
// A layer is AES-256-CTR with HMAC-SHA256 over the ciphertext, both under one
// key of the layer. That key and the nonce (the private options) are wrapped
// under a key encryption key that the Key Broker Service holds; the annotation
// packet names it. Who unwraps is the caller's choice, see Unwrapper.
//
// Invariant: NewReader gives io.EOF only after the HMAC over the whole
// ciphertext has been verified; until then what it gave is unauthenticated and
// must not be used for anything that cannot be thrown away. This is why the
// unpacker writes into a staging directory.
//
// Trust zone: guest; the owner uses it to decrypt. It links no gRPC.
package ocicrypt

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cofferproject/coffer/image/digest"
)

// Cipher is the only layer cipher.
const Cipher = "AES_256_CTR_HMAC_SHA256"

// ErrMAC says that a layer's ciphertext is not what was encrypted.
var ErrMAC = errors.New("layer HMAC does not match: the encrypted layer was changed or cut, or the key is another layer's")

// Unwrapper opens an annotation packet (JSON) and gives the private layer
// options (JSON) in it. It is the only thing that ever sees the key encryption
// key. It is safe to call again for another packet after an error.
type Unwrapper interface {
	UnwrapKey(ctx context.Context, annotationPacket []byte) (plbco []byte, err error)
}

// PublicOptions travel in the clear, in AnnotationPubOpts.
type PublicOptions struct {
	Cipher string            `json:"cipher"`
	HMAC   []byte            `json:"hmac"`
	Opts   map[string][]byte `json:"cipheroptions"`
}

// PrivateOptions are what a packet wraps.
type PrivateOptions struct {
	SymKey []byte            `json:"symkey"` // 32 bytes, for AES and HMAC
	Digest digest.Digest     `json:"digest"` // of the plaintext layer blob
	Opts   map[string][]byte `json:"cipheroptions"`
}

// ParsePublicOptions reads AnnotationPubOpts.
func ParsePublicOptions(annotations map[string]string) (*PublicOptions, error) {
	s, ok := annotations[AnnotationPubOpts]
	if !ok {
		return nil, fmt.Errorf("encrypted layer without annotation %s", AnnotationPubOpts)
	}
	if len(s) > MaxAnnotation {
		return nil, fmt.Errorf("annotation %s of %d bytes: more than %d", AnnotationPubOpts, len(s), MaxAnnotation)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", AnnotationPubOpts, err)
	}
	var p PublicOptions
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("annotation %s: %w", AnnotationPubOpts, err)
	}
	if p.Cipher != Cipher {
		return nil, fmt.Errorf("layer cipher %.60q is not supported, only %s", p.Cipher, Cipher)
	}
	if len(p.HMAC) != sha256.Size {
		return nil, fmt.Errorf("layer HMAC of %d bytes, expected %d", len(p.HMAC), sha256.Size)
	}
	return &p, nil
}

// ParsePrivateOptions reads what an Unwrapper gave.
func ParsePrivateOptions(b []byte) (*PrivateOptions, error) {
	if len(b) > maxPLBCO {
		return nil, fmt.Errorf("private layer options of %d bytes: more than %d", len(b), maxPLBCO)
	}
	var p PrivateOptions
	if err := json.Unmarshal(b, &p); err != nil {
		// The text of a JSON error can quote its input, here a key.
		return nil, errors.New("private layer options are not the expected JSON")
	}
	if len(p.SymKey) != 32 {
		return nil, fmt.Errorf("layer key of %d bytes, expected 32", len(p.SymKey))
	}
	if n := len(p.Opts["nonce"]); n != aes.BlockSize {
		return nil, fmt.Errorf("layer nonce of %d bytes, expected %d", n, aes.BlockSize)
	}
	return &p, nil
}

// UnwrapOptions asks u for the private options of a layer with these
// annotations, recipient by recipient until one opens.
func UnwrapOptions(ctx context.Context, annotations map[string]string, u Unwrapper) (*PrivateOptions, error) {
	packets, err := Packets(annotations)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, errors.New("encrypted layer, and nothing here can unwrap its key")
	}
	var errs []error
	for _, packet := range packets {
		plbco, err := u.UnwrapKey(ctx, packet)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		opts, err := ParsePrivateOptions(plbco)
		clear(plbco)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return opts, nil
	}
	return nil, fmt.Errorf("unwrapping the layer's key: %w", errors.Join(errs...))
}

// NewReader decrypts r. The error at the end is io.EOF only if the HMAC is
// right, else ErrMAC.
func NewReader(r io.Reader, pub *PublicOptions, priv *PrivateOptions) (io.Reader, error) {
	block, err := aes.NewCipher(priv.SymKey)
	if err != nil {
		return nil, fmt.Errorf("layer key: %w", err)
	}
	return &reader{
		r:    r,
		ctr:  cipher.NewCTR(block, priv.Opts["nonce"]),
		mac:  hmac.New(sha256.New, priv.SymKey),
		want: pub.HMAC,
	}, nil
}

type reader struct {
	r    io.Reader
	ctr  cipher.Stream
	mac  hash.Hash
	want []byte
	err  error
}

func (d *reader) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.r.Read(p)
	if n > 0 {
		d.mac.Write(p[:n])
		d.ctr.XORKeyStream(p[:n], p[:n])
	}
	if err == io.EOF {
		if !hmac.Equal(d.mac.Sum(nil), d.want) {
			err = ErrMAC
		}
	}
	d.err = err
	return n, err
}
