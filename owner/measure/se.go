package measure

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/se"
	semeasure "github.com/cofferproject/coffer/tee/se/measure"
)

func init() { calculators[launch.SE] = measureSE }

// measureSE reads what identifies an encrypted image off its header; nothing can
// be recomputed without its keys.
func measureSE(spec *launch.Spec, in *inputs, r *Result) error {
	if spec.Initdata != nil {
		return errors.New("initdata: Secure Execution has no field that binds it")
	}
	h, err := semeasure.ReadHeader(bytes.NewReader(in.image))
	if err != nil {
		return fmt.Errorf("image: %s: %w", spec.Image.Path, err)
	}
	r.row("tag", h.Tags.Tag, "the image's header, which holds all of the following")
	r.row("page_list_digest", h.Tags.PLD, "the encrypted pages")
	r.row("address_list_digest", h.Tags.ALD, "their addresses")
	r.row("tweak_list_digest", h.Tags.TLD, "their tweaks")
	r.accept("se_tag", hex.EncodeToString(h.Tags.Tag))
	r.accept("se_version", se.Version)
	for i, k := range h.HostKeys {
		r.row("image_phkh", k, fmt.Sprintf("host key of key slot %d", i+1))
		r.accept("se_image_phkh", hex.EncodeToString(k))
	}
	if h.AllowsDump() {
		r.Notes = append(r.Notes, "the image lets the host dump the guest (encrypted for its owner); evidence does not show it")
	}
	return r.hostKeys(spec, in, h)
}

// hostKeys adds the keys that attestation requests may be encrypted for. A key
// slot of a machine that was not named is an error: its owner can decrypt the image.
func (r *Result) hostKeys(spec *launch.Spec, in *inputs, h *semeasure.Header) error {
	if spec.SE == nil {
		r.Notes = append(r.Notes, "attestation_phkh is not known: it depends on the host key document that a request is encrypted for")
		return nil
	}
	var named [][]byte
	for i, doc := range in.hostKeys {
		path := spec.SE.HostKeys[i].Path
		k, err := semeasure.HostKeyHash(doc)
		if err != nil {
			return fmt.Errorf("host_keys[%d]: %s: %w", i, path, err)
		}
		named = append(named, k)
		r.row("attestation_phkh", k, "host key document "+path)
		r.accept("se_attestation_phkh", hex.EncodeToString(k))
	}
	for i, k := range h.HostKeys {
		if !slices.ContainsFunc(named, func(n []byte) bool { return bytes.Equal(n, k) }) {
			return fmt.Errorf("image: %s: key slot %d is of host key %x, which is of no named document", spec.Image.Path, i+1, k)
		}
	}
	r.Notes = append(r.Notes, "the chain of host key documents to IBM is not checked here: whoever has a key among them can forge evidence")
	return nil
}
