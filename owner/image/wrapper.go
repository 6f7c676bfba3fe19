package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"

	guest "github.com/cofferproject/coffer/image/ocicrypt"
)

// scheme is the ocicrypt key wrapper of ours: the key provider that published
// tools reach over a socket, here in the process.
const (
	scheme   = "provider.attestation-agent"
	provider = "attestation-agent"
)

// wrapper wraps a layer's private options for the trustee's keys. Which key a
// layer is for travels in the EncryptConfig; the key itself in a request of our
// own, since ocicrypt hands parameters on to other wrappers too.
type wrapper struct{}

func init() { ocicrypt.RegisterKeyWrapper(scheme, wrapper{}) }

// encryptConfig asks the wrapper to wrap for one key.
func encryptConfig(kid string, kek []byte) *config.EncryptConfig {
	return &config.EncryptConfig{Parameters: map[string][][]byte{scheme: {[]byte(kid), kek}}}
}

// WrapKeys makes the annotation packet.
func (wrapper) WrapKeys(ec *config.EncryptConfig, optsData []byte) ([]byte, error) {
	p := ec.Parameters[scheme]
	if len(p) == 0 {
		return nil, nil
	}
	if len(p) != 2 {
		return nil, errors.New("one key at a time")
	}
	return guest.Seal(string(p[0]), p[1], optsData)
}

// UnwrapKey is not used: decryption is the guest's own decryptor's.
func (wrapper) UnwrapKey(*config.DecryptConfig, []byte) ([]byte, error) {
	return nil, errors.New("this wrapper only wraps")
}

// GetAnnotationID gives the layer annotation that the packets go to.
func (wrapper) GetAnnotationID() string { return guest.AnnotationKeys }

// NoPossibleKeys says that this wrapper never decrypts.
func (wrapper) NoPossibleKeys(map[string][][]byte) bool { return true }

// GetPrivateKeys gives none.
func (wrapper) GetPrivateKeys(map[string][][]byte) [][]byte { return nil }

// GetKeyIdsFromPacket gives none: the ids here are no numbers.
func (wrapper) GetKeyIdsFromPacket(string) ([]uint64, error) { return nil, nil } //nolint:revive // the interface's name

// GetRecipients gives the key ids of an annotation.
func (wrapper) GetRecipients(annotation string) ([]string, error) {
	return keyIDs(map[string]string{guest.AnnotationKeys: annotation})
}

// keyIDs lists the keys an encrypted layer can be opened with.
func keyIDs(annotations map[string]string) ([]string, error) {
	packets, err := guest.Packets(annotations)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, b := range packets {
		p, err := guest.ParsePacket(b)
		if err != nil {
			return nil, err
		}
		ids = append(ids, p.KID)
	}
	return ids, nil
}

// unwrapper opens packets with the owner's own copies of the keys.
type unwrapper struct{ keys Keys }

func (u unwrapper) UnwrapKey(_ context.Context, packet []byte) ([]byte, error) {
	p, err := guest.ParsePacket(packet)
	if err != nil {
		return nil, err
	}
	if p.Provider != "kbs" {
		return nil, fmt.Errorf("annotation packet: provider %.40q is not supported, only kbs", p.Provider)
	}
	kek, err := u.keys.KEK(p.KID)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	return p.Open(kek)
}
