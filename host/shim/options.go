package shim

import (
	"errors"
	"fmt"
	"io"
	"os"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// configOf reads the handler's configuration from a CreateTaskRequest's options.
func configOf(options *anypb.Any) (*Config, error) {
	o := new(runtimeoptions.Options)
	if options == nil {
		return nil, errors.New("the runtime handler has no options: containerd's configuration must name tee and platform for it")
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
