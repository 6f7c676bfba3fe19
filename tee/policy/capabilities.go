package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// capabilities are what a policy may use: every builtin of OPA that is a pure
// and cheap function of its arguments. What is off is refused at the upload.
var capabilities = func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return forbidden(b.Name) })
	c.AllowNet = []string{} // none
	return c
}()

// forbidden tells what no policy gets.
func forbidden(name string) bool {
	switch name {
	case "http.send", "net.lookup_ip_addr", "json.match_schema", "json.verify_schema", "providers.aws.sign_req": // network
		return true
	case "opa.runtime", "rand.intn", "uuid.rfc4122", "trace", "rego.parse_module": // what is not in the evidence
		return true
	case "net.cidr_expand", "numbers.range", "numbers.range_step", "yaml.unmarshal", "yaml.is_valid", "yaml.marshal",
		"strings.render_template", "regex.globs_match", "graph.reachable_paths": // much out of little
		return true
	}
	for _, p := range []string{"graphql.", "io.jwt.", "crypto.x509.", "crypto.parse_"} { // parsers that no appraisal needs
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
