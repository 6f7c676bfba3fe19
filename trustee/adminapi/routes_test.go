package adminapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

func TestEveryRouteNamesAKnownPermission(t *testing.T) {
	mux := http.NewServeMux()
	(&Handler{}).Routes(mux) // panics where two routes conflict
	for _, r := range routes() {
		if r.need == "" || !slices.Contains(granted[trusteeapi.RoleAdmin], r.need) {
			t.Errorf("%s %s needs %q, which no role has", r.method, r.path, r.need)
		}
		reads := strings.HasSuffix(string(r.need), ":read")
		if reads != (r.method == http.MethodGet) {
			t.Errorf("%s %s needs %q", r.method, r.path, r.need)
		}
		if (r.method == http.MethodPost || r.method == http.MethodPut) != (r.limit > 0) {
			t.Errorf("%s %s: body limit %d", r.method, r.path, r.limit)
		}
	}
}

func TestUnknownRoleMayNothing(t *testing.T) {
	for role := range granted {
		if !slices.Contains(trusteeapi.Roles(), role) {
			t.Errorf("%q has permissions and is no role", role)
		}
	}
	if len(granted["root"]) != 0 || len(granted[""]) != 0 {
		t.Error("a role that nobody defined has permissions")
	}
}
