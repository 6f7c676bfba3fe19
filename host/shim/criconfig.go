package shim

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cofferproject/coffer/host/protofield"
)

// criConfigType is the type under which containerd sends a pod's configuration.
const criConfigType = "runtime.v1.PodSandboxConfig"

// criConfig is what the shim reads of the CRI's runtime.v1.PodSandboxConfig
// (k8s.io/cri-api, api.proto; testdata has one of its own encoder's). That module would
// bring all of the CRI for these few fields.
type criConfig struct {
	uid          string
	name         string
	namespace    string
	dns          *criDNS // nil: the node's
	annotations  map[string]string
	cgroupParent string
	limits       podLimits
}

type criDNS struct{ servers, searches, options []string }

// parseCRIConfig reads a PodSandboxConfig. Fields that it does not know it passes over,
// as every reader of protobuf does.
func parseCRIConfig(b []byte) (*criConfig, error) {
	c := &criConfig{annotations: map[string]string{}}
	err := message{
		1: text(map[protowire.Number]*string{1: &c.name, 2: &c.uid, 3: &c.namespace}),
		4: func(v []byte) error {
			c.dns = new(criDNS)
			return message{1: list(&c.dns.servers), 2: list(&c.dns.searches), 3: list(&c.dns.options)}.read(v)
		},
		7: func(v []byte) error {
			var key, value string
			err := text(map[protowire.Number]*string{1: &key, 2: &value})(v)
			c.annotations[key] = value
			return err
		},
		8: message{
			1: one(&c.cgroupParent),
			5: func(v []byte) error { return limits(v, &c.limits) },
		}.read,
	}.read(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", criConfigType, err)
	}
	return c, nil
}

// message is what to do with each of a message's fields that are not numbers.
type message map[protowire.Number]func([]byte) error

func (m message) read(b []byte) error {
	return protofield.Each(b, func(num protowire.Number, v []byte, _ uint64) error {
		if f := m[num]; f != nil && v != nil {
			return f(v)
		}
		return nil
	})
}

// text reads a message of strings alone.
func text(fields map[protowire.Number]*string) func([]byte) error {
	m := message{}
	for num, to := range fields {
		m[num] = one(to)
	}
	return m.read
}

var errNotText = errors.New("a string is not UTF-8")

func one(to *string) func([]byte) error {
	return func(v []byte) error {
		if !utf8.Valid(v) {
			return errNotText
		}
		*to = string(v)
		return nil
	}
}

func list(to *[]string) func([]byte) error {
	return func(v []byte) error {
		var s string
		err := one(&s)(v)
		*to = append(*to, s)
		return err
	}
}

// limits reads a LinuxContainerResources.
func limits(b []byte, to *podLimits) error {
	numbers := map[protowire.Number]*int64{1: &to.cpuPeriod, 2: &to.cpuQuota, 4: &to.memory}
	return protofield.Each(b, func(num protowire.Number, v []byte, n uint64) error {
		if to := numbers[num]; to != nil && v == nil {
			*to = int64(n)
		}
		return nil
	})
}
