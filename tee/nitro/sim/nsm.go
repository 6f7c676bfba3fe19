package sim

import (
	"bytes"

	"github.com/cofferproject/coffer/tee/nitro/cbor"
)

// The module's words for what it refuses.
const (
	errArgument  = "InvalidArgument"
	errIndex     = "InvalidIndex"
	errReadOnly  = "ReadOnlyIndex"
	errOperation = "InvalidOperation"
	errInternal  = "InternalError"
)

func refuse(word string) any { return cbor.Map{{Key: "Error", Value: word}} }

// answer gives the response to one request as a value.
func (e *Enclave) answer(request []byte) any {
	v, err := cbor.Decode(request)
	if err != nil {
		return refuse(errArgument)
	}
	if name, ok := v.(string); ok {
		if name != "DescribeNSM" {
			return refuse(errOperation)
		}
		return cbor.Map{{Key: name, Value: e.describe()}}
	}
	m, ok := v.(cbor.Map)
	if !ok || len(m) != 1 {
		return refuse(errArgument)
	}
	name, _ := m[0].Key.(string)
	args, ok := m[0].Value.(cbor.Map)
	if !ok {
		return refuse(errArgument)
	}
	if name == "Attestation" {
		return e.attest(args)
	}
	n, ok := args.Get("index")
	index, isNumber := n.(uint64)
	if !ok || !isNumber || index >= registers {
		return refuse(errIndex)
	}
	return e.register(name, int(index), args)
}

// register answers the requests that are about one register.
func (e *Enclave) register(name string, i int, args cbor.Map) any {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch name {
	case "DescribePCR":
		return cbor.Map{{Key: name, Value: cbor.Map{{Key: "lock", Value: e.locked[i]}, {Key: "data", Value: bytes.Clone(e.pcrs[i][:])}}}}
	case "ExtendPCR":
		d, _ := args.Get("data")
		data, ok := d.([]byte)
		switch {
		case !ok:
			return refuse(errArgument)
		case e.locked[i]:
			return refuse(errReadOnly)
		}
		e.extend(i, data)
		return cbor.Map{{Key: name, Value: cbor.Map{{Key: "data", Value: bytes.Clone(e.pcrs[i][:])}}}}
	case "LockPCR":
		if e.locked[i] {
			return refuse(errReadOnly)
		}
		e.locked[i] = true
		return name
	}
	return refuse(errOperation)
}

func (e *Enclave) describe() cbor.Map {
	e.mu.Lock()
	defer e.mu.Unlock()
	locked := []any{}
	for i, l := range e.locked {
		if l {
			locked = append(locked, uint64(i))
		}
	}
	return cbor.Map{
		{Key: "version_major", Value: 1}, {Key: "version_minor", Value: 0}, {Key: "version_patch", Value: 0}, {Key: "module_id", Value: e.id},
		{Key: "max_pcrs", Value: registers}, {Key: "locked_pcrs", Value: locked}, {Key: "digest", Value: "SHA384"},
	}
}

func (e *Enclave) attest(args cbor.Map) any {
	var fields [3][]byte
	for i, name := range []string{"user_data", "nonce", "public_key"} {
		v, _ := args.Get(name)
		if v == nil {
			continue
		}
		b, ok := v.([]byte)
		if !ok || len(b) > maxPublicKey || i < 2 && len(b) > maxUserData {
			return refuse(errArgument)
		}
		fields[i] = b
	}
	d, err := e.Document(fields[0], fields[1], fields[2])
	if err != nil {
		return refuse(errInternal)
	}
	return cbor.Map{{Key: "Attestation", Value: cbor.Map{{Key: "document", Value: d}}}}
}
