package pid1

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/volume"
)

// volumes gives what opens the pod's volumes on disks, or in files where a library OS
// is the kernel. The TEE's sealing keys, if the policy has any, are taken now: from now
// on the TEE is the key holder's.
func (opt *Options) volumes(ctx context.Context, log *slog.Logger, policy *podpolicy.Policy) (agent.Disks, error) {
	o := volume.Options{Key: fetch, Log: log}
	if opt.lib == nil {
		return volume.NewManager(o), nil
	}
	keys, err := opt.sealingKeys(ctx, policy)
	if err != nil {
		return nil, err
	}
	if opt.SealingKey != nil {
		o.Sealing = func(policy string) ([]byte, error) {
			if keys[policy] == nil {
				return nil, fmt.Errorf("no such key was asked for: %.20q", policy)
			}
			return bytes.Clone(keys[policy]), nil
		}
	}
	files, err := opt.lib.Stores()
	if err != nil {
		return nil, err
	}
	return volume.NewStores(o, files), nil
}

// sealingKeys asks the TEE for the keys that the policy's volumes need.
func (opt *Options) sealingKeys(ctx context.Context, policy *podpolicy.Policy) (map[string][]byte, error) {
	keys := map[string][]byte{}
	if policy == nil || opt.SealingKey == nil {
		return keys, nil
	}
	for _, v := range policy.Disks() {
		if v.Sealing == "" || keys[v.Sealing] != nil {
			continue
		}
		k, err := opt.SealingKey(ctx, v.Sealing)
		if err != nil {
			return nil, fmt.Errorf("asking the TEE for its sealing key: %w", err)
		}
		keys[v.Sealing] = k
	}
	return keys, nil
}
