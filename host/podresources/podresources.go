// Package podresources asks the kubelet which devices it has given to a pod, by its
// PodResources API (v1, a gRPC service on a socket of the node's). The container
// runtime is told that only with each container, when the VM runs already.
//
// Of the answer only names of devices count: a device plug-in's as RESOURCE=ID, those of
// resource claims as the CDI names that they have.
//
// Trust zone: host. The kubelet is the node's; its answer is bounded all the same.
package podresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cofferproject/coffer/host/protofield"
)

const (
	method     = "/v1.PodResourcesLister/List"
	maxAnswer  = 16 << 20 // bytes
	maxDevices = 1024     // of one pod
	timeout    = 10 * time.Second
)

// Of gives the names of the devices that the kubelet at socket has given to a pod, in
// the kubelet's order, each once.
func Of(ctx context.Context, socket, namespace, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet at %s: %w", socket, err)
	}
	defer conn.Close()
	var answer []byte
	if err := conn.Invoke(ctx, method, []byte(nil), &answer); err != nil {
		return nil, fmt.Errorf("asking the kubelet at %s for the pod's devices: %w", socket, err)
	}
	found, err := decode(answer, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("the kubelet at %s: %w", socket, err)
	}
	return found, nil
}

// raw passes messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("no bytes")
	}
	return b, nil
}

func (raw) Unmarshal(b []byte, v any) error {
	to, ok := v.(*[]byte)
	if !ok {
		return errors.New("no bytes")
	}
	*to = slices.Clone(b)
	return nil
}

// fields calls f for each field of a message that has bytes.
func fields(b []byte, f func(number protowire.Number, value []byte) error) error {
	return protofield.Each(b, func(number protowire.Number, value []byte, _ uint64) error {
		if value == nil {
			return nil
		}
		return f(number, value)
	})
}

// errPod ends a pod that is another one.
var errPod = errors.New("another pod")

// decode reads ListPodResourcesResponse (k8s.io/kubelet, podresources/v1).
func decode(b []byte, namespace, name string) ([]string, error) {
	var out []string
	err := fields(b, func(number protowire.Number, pod []byte) error {
		if number != 1 {
			return nil
		}
		found, err := ofPod(pod, namespace, name)
		if errors.Is(err, errPod) {
			return nil
		}
		if len(found) > 0 && len(out) > 0 {
			return fmt.Errorf("two pods %s/%s have devices: one of them is about to end", namespace, name)
		}
		out = append(out, found...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	return out, nil
}

// ofPod reads PodResources: name 1, namespace 2, containers 3.
func ofPod(b []byte, namespace, name string) (out []string, err error) {
	var gotName, gotNamespace string
	err = fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			gotName = string(value)
		case 2:
			gotNamespace = string(value)
		case 3:
			return ofContainer(value, func(device string) error {
				if slices.Contains(out, device) {
					return nil
				}
				if out = append(out, device); len(out) > maxDevices {
					return fmt.Errorf("a pod with more than %d devices", maxDevices)
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && (gotName != name || gotNamespace != namespace) {
		return nil, errPod
	}
	return out, err
}

// ofContainer reads ContainerResources: devices 2 (resource 1, ids 2), claims 5
// (resources 4, their CDI devices 1, the name 1).
func ofContainer(b []byte, add func(string) error) error {
	return fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			return ofPlugin(value, add)
		case 5:
			return below(value, []protowire.Number{4, 1, 1}, add)
		}
		return nil
	})
}

func ofPlugin(b []byte, add func(string) error) error {
	var resource string
	var ids []string
	err := fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			resource = string(value)
		case 2:
			ids = append(ids, string(value))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := add(resource + "=" + id); err != nil {
			return err
		}
	}
	return nil
}

// below calls add for each text at a path of fields.
func below(b []byte, path []protowire.Number, add func(string) error) error {
	return fields(b, func(number protowire.Number, value []byte) error {
		switch {
		case number != path[0]:
			return nil
		case len(path) == 1:
			return add(string(value))
		}
		return below(value, path[1:], add)
	})
}
