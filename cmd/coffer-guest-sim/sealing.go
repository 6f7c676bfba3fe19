package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/podpolicy"
	protocol "github.com/cofferproject/coffer/api/simhw"
)

// sealingKey asks the simulated CPU for a key for sealing, as an enclave does with
// EGETKEY: two of 128 bits, with a key id of their own each.
func sealingKey(ctx context.Context, policy string) (key []byte, err error) {
	d, err := openHardware(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	bits, ok := map[string]byte{
		// The agent's MRENCLAVE is every pod's: what makes it this one's is CONFIGID.
		podpolicy.SealingMREnclave: protocol.KeyPolicyMREnclave | protocol.KeyPolicyConfigID,
		podpolicy.SealingMRSigner:  protocol.KeyPolicyMRSigner,
	}[policy]
	if !ok {
		return nil, fmt.Errorf("no policy %.20q", policy)
	}
	for id := range byte(2) {
		k, err := d.Call(ctx, protocol.OpSealingKey, bits, append([]byte("coffer volume"), id))
		if err != nil {
			return nil, err
		}
		if len(k) != protocol.SealingKeySize {
			return nil, fmt.Errorf("a key of %d bytes", len(k))
		}
		key = append(key, k...)
	}
	return key, nil
}
