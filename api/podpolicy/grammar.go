package podpolicy

import (
	"net/netip"
	"path"
	"regexp"
	"strings"
	"sync"
)

// pattern is a regular expression that is compiled when first used: compiling all
// takes milliseconds, and the guest starts processes that judge nothing.
type pattern func() *regexp.Regexp

func compiled(expr string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// MatchString is regexp.Regexp's.
func (p pattern) MatchString(s string) bool { return p().MatchString(s) }

// FindStringSubmatch is regexp.Regexp's.
func (p pattern) FindStringSubmatch(s string) []string { return p().FindStringSubmatch(s) }

// The named grammars of SPEC.md section 3. Everything else is equality.
var (
	labelRE     = compiled(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsNameRE   = compiled(`^[a-zA-Z0-9_]([-a-zA-Z0-9_.]{0,251}[a-zA-Z0-9_])?\.?$`)
	hostnameRE  = compiled(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)
	podRE       = compiled(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	digestRE    = compiled(`^sha256:[0-9a-f]{64}$`)
	hex64RE     = compiled(`^[0-9a-f]{64}$`)
	imageRE     = compiled(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+@(sha256:[0-9a-f]{64})$`)
	sysctlRE    = compiled(`^(net\.[a-z0-9_.]{1,100}|kernel\.(shm[a-z0-9_]{1,40}|msg[a-z0-9_]{1,40}|sem)|fs\.mqueue\.[a-z0-9_]{1,40})$`)
	sysctlValRE = compiled(`^[-0-9][-0-9, \t]{0,199}$|^-?[0-9]$`)
	idRE        = compiled(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,127}$`)
	execIDRE    = compiled(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)
	ifNameRE    = compiled(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)
	macRE       = compiled(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
	ociVerRE    = compiled(`^1\.[0-9]{1,2}\.[0-9]{1,2}$`)
	resolvOptRE = compiled(`^[a-z0-9-]{1,40}(:[0-9]{1,5})?$`)
)

// reservedIDs are names in RootDir that no container may take: its root would
// lie among the agent's own folders.
var reservedIDs = map[string]bool{
	"shared": true, "sandbox": true, "image": true, "images": true, "initdata": true, "layers": true, "volumes": true, "containers": true,
}

func validID(s string) bool { return idRE.MatchString(s) && !reservedIDs[s] }

// absClean reports whether p is an absolute path in its only spelling.
func absClean(p string) bool {
	return len(p) <= 4096 && strings.HasPrefix(p, "/") && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

// relClean reports whether p is a relative path in its only spelling that stays
// below its root.
func relClean(p string) bool {
	if p == "" || p == "." || len(p) > 4096 || strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.ContainsRune(p, 0) {
		return false
	}
	return p != ".." && !strings.HasPrefix(p, "../")
}

// loaderVariables decide which code a program loads before its own first line.
// A policy may only spell them out; a request that brings one is named so.
var loaderVariables = map[string]bool{
	"PATH": true, "BASH_ENV": true, "ENV": true, "NODE_OPTIONS": true, "NODE_PATH": true, "JAVA_TOOL_OPTIONS": true, "JDK_JAVA_OPTIONS": true,
	"_JAVA_OPTIONS": true, "CLASSPATH": true, "RUBYOPT": true, "RUBYLIB": true, "PERL5OPT": true, "PERL5LIB": true, "PERL5DB": true, "GCONV_PATH": true,
	"GLIBC_TUNABLES": true, "LOCPATH": true, "DOTNET_STARTUP_HOOKS": true, "CORECLR_PROFILER": true, "CORECLR_PROFILER_PATH": true,
	"PHP_INI_SCAN_DIR": true, "PHPRC": true, "LUA_INIT": true, "ERL_FLAGS": true, "GIT_SSH_COMMAND": true, "IFS": true, "PROMPT_COMMAND": true,
}

// LoaderVariable reports whether an environment variable makes programs load code.
func LoaderVariable(name string) bool {
	return loaderVariables[name] || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "PYTHON") ||
		strings.HasPrefix(name, "BASH_FUNC_") || strings.HasPrefix(name, "LUA_INIT_")
}

// hostAddr parses an address the host may give an interface or a route.
func hostAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.String() != s {
		return a, false
	}
	return a, true
}
