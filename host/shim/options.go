package shim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// configOf reads the handler's configuration from a CreateTaskRequest's options.
func configOf(options *anypb.Any) (*Config, error) {
	o := new(runtimeoptions.Options)
	if options == nil {
		return nil, errors.New("the runtime handler has no options: containerd's configuration must name its file (options.ConfigPath), CRI-O's too (runtime_config_path)")
	}
	if err := proto.Unmarshal(options.Value, o); err != nil {
		return nil, fmt.Errorf("reading the runtime handler's options: %w", err)
	}
	body, from := o.ConfigBody, "options of the runtime handler"
	if o.ConfigPath != "" {
		from = o.ConfigPath
		f, err := os.Open(o.ConfigPath)
		if err != nil {
			return nil, fmt.Errorf("reading the runtime handler's configuration: %w", err)
		}
		defer f.Close()
		if body, err = io.ReadAll(io.LimitReader(f, maxConfig+1)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", from, err)
		}
	}
	c, err := ParseConfig(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return c, nil
}

// optionsFile has, in the bundle of the sandbox API's sandbox, the handler's options.
const optionsFile = "coffer-options"

// startOptions gives the runtime handler's options from what containerd gives to start:
// among the parameters of the bootstrap protocol, or before that as they are. The empty
// ones are none.
func startOptions(said []byte) *anypb.Any {
	p := new(bootapi.BootstrapParams)
	if !readsJSON(said) {
		o := new(anypb.Any)
		if proto.Unmarshal(said, o) != nil || !o.MessageIs(&runtimeoptions.Options{}) {
			return &anypb.Any{}
		}
		return o
	}
	if proto.Unmarshal(said, p) == nil {
		for _, e := range p.GetExtensions() {
			if e.GetValue().MessageIs(&runtimeoptions.Options{}) {
				return e.GetValue()
			}
		}
	}
	return &anypb.Any{}
}

// maxOptions is the largest record of options, in bytes: a configuration, and names.
const maxOptions = 2 * maxConfig

// writeOptions records the options for the serving process.
func (a *arguments) writeOptions(said []byte) error {
	b, err := proto.Marshal(startOptions(said))
	if err == nil && len(b) > maxOptions {
		err = fmt.Errorf("longer than %d bytes", maxOptions)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(a.bundle, optionsFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording the runtime handler's options: %w", err)
	}
	return nil
}

// readOptions gives what start has recorded; nil: nothing.
func (a *arguments) readOptions() (*anypb.Any, error) {
	b, err := readBounded(filepath.Join(a.bundle, optionsFile), maxOptions)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the runtime handler's options: %w", err)
	}
	o := new(anypb.Any)
	return o, proto.Unmarshal(b, o)
}
