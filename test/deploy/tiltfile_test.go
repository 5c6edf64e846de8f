package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// tilt is what a Tiltfile asked for.
type tilt struct {
	contexts  []string
	yaml      []string // folders that were rendered and deployed
	images    map[string]image
	locals    map[string]local
	resources map[string]resource
}

type image struct {
	context, dockerfile string
	buildArgs           map[string]string
	only                []string
	update              []string // "COPY <from> <to>" and "RUN <command>", as a Dockerfile would have it
}

type local struct {
	command string
	deps    []string
}

type resource struct {
	dependsOn, forwards []string
}

// executeTiltfile runs the Tiltfile with stand-ins for the built-ins of Tilt that it uses, which record their calls.
// They know only the parameters used here, so a misspelt one is an error, as it is in Tilt; what Tilt does with them
// in a cluster is not tested. The signatures are those of https://docs.tilt.dev/api.html.
func executeTiltfile(t *testing.T) tilt {
	t.Helper()
	result := tilt{images: map[string]image{}, locals: map[string]local{}, resources: map[string]resource{}}
	type arguments struct {
		name   string
		args   starlark.Tuple
		kwargs []starlark.Tuple
	}
	// A stub gets its arguments in the variables that it names.
	unpack := func(a arguments, pairs ...any) error { return starlark.UnpackArgs(a.name, a.args, a.kwargs, pairs...) }
	stubs := map[string]func(arguments) (starlark.Value, error){
		"allow_k8s_contexts": func(a arguments) (starlark.Value, error) {
			var context string
			err := unpack(a, "contexts", &context)
			result.contexts = append(result.contexts, context)
			return starlark.None, err
		},
		"kustomize": func(a arguments) (starlark.Value, error) {
			var folder string
			err := unpack(a, "pathToDir", &folder)
			return starlark.String(folder), err
		},
		"k8s_yaml": func(a arguments) (starlark.Value, error) {
			var folder string
			err := unpack(a, "yaml", &folder)
			result.yaml = append(result.yaml, folder)
			return starlark.None, err
		},
		"sync": func(a arguments) (starlark.Value, error) {
			var from, to string
			err := unpack(a, "local_path", &from, "remote_path", &to)
			return starlark.String("COPY " + from + " " + to), err
		},
		"run": func(a arguments) (starlark.Value, error) {
			var command string
			err := unpack(a, "cmd", &command)
			return starlark.String("RUN " + command), err
		},
		"docker_build": func(a arguments) (starlark.Value, error) {
			var i image
			var ref string
			var buildArgs *starlark.Dict
			var only, update *starlark.List
			err := unpack(a, "ref", &ref, "context", &i.context, "dockerfile?", &i.dockerfile, "build_args?", &buildArgs, "only?", &only, "live_update?", &update)
			if err != nil {
				return nil, err
			}
			i.only, i.update = stringsOf(only), stringsOf(update)
			i.buildArgs = map[string]string{}
			if buildArgs != nil {
				for _, item := range buildArgs.Items() {
					i.buildArgs[text(item[0])] = text(item[1])
				}
			}
			result.images[ref] = i
			return starlark.None, nil
		},
		"local_resource": func(a arguments) (starlark.Value, error) {
			var l local
			var name string
			var deps, ignore, labels *starlark.List
			err := unpack(a, "name", &name, "cmd", &l.command, "deps?", &deps, "ignore?", &ignore, "labels?", &labels)
			l.deps = stringsOf(deps)
			result.locals[name] = l
			return starlark.None, err
		},
		"k8s_resource": func(a arguments) (starlark.Value, error) {
			var name string
			var dependsOn, forwards, labels *starlark.List
			err := unpack(a, "workload", &name, "resource_deps?", &dependsOn, "port_forwards?", &forwards, "labels?", &labels)
			result.resources[name] = resource{stringsOf(dependsOn), stringsOf(forwards)}
			return starlark.None, err
		},
	}
	predeclared := starlark.StringDict{}
	for name, stub := range stubs {
		predeclared[name] = starlark.NewBuiltin(name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			return stub(arguments{b.Name(), args, kwargs})
		})
	}
	// Tilt lets a Tiltfile loop at the top level.
	options := &syntax.FileOptions{TopLevelControl: true}
	if _, err := starlark.ExecFileOptions(options, &starlark.Thread{Name: "Tiltfile"}, "Tiltfile", read(t, "Tiltfile"), predeclared); err != nil {
		t.Fatalf("execute the Tiltfile: %v", err)
	}
	return result
}

func text(value starlark.Value) string {
	s, _ := starlark.AsString(value)
	return s
}

func stringsOf(list *starlark.List) []string {
	var all []string
	if list != nil {
		for value := range list.Elements() {
			all = append(all, text(value))
		}
	}
	return all
}

// exists complains of a path of the repository that is not there. bin/linux is where the Tiltfile compiles to.
func exists(t *testing.T, path string) {
	t.Helper()
	if strings.HasPrefix(path, "bin/linux/") {
		return
	}
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		t.Errorf("the Tiltfile names %s: %v", path, err)
	}
}

func TestTiltfileDeploysOnlyToItsOwnCluster(t *testing.T) {
	if got, want := executeTiltfile(t).contexts, []string{"kind-lockstep"}; !slices.Equal(got, want) {
		t.Errorf("contexts are %q, want %q", got, want)
	}
}

func TestTiltfileKnowsWhatTheOverlayDeploys(t *testing.T) {
	tilt := executeTiltfile(t)
	if want := []string{overlays["dev"]}; !slices.Equal(tilt.yaml, want) {
		t.Fatalf("deploys %q, want %q", tilt.yaml, want)
	}
	deployed := map[string]workload{}
	used := map[string]bool{}
	for _, w := range workloads(mustDecode(t, render(t, overlays["dev"]))) {
		deployed[w.name] = w
		for _, c := range w.containers() {
			if strings.HasPrefix(c.Image, "lockstep/") {
				used[c.Image] = true
			}
		}
	}
	if built := slices.Sorted(maps.Keys(tilt.images)); !slices.Equal(built, slices.Sorted(maps.Keys(used))) {
		t.Errorf("builds the images %q, the pods use %q", built, slices.Sorted(maps.Keys(used)))
	}
	if named := slices.Sorted(maps.Keys(tilt.resources)); !slices.Equal(named, slices.Sorted(maps.Keys(deployed))) {
		t.Errorf("names the resources %q, the overlay deploys %q", named, slices.Sorted(maps.Keys(deployed)))
	}
	for name, resource := range tilt.resources {
		for _, dependency := range resource.dependsOn {
			if _, found := tilt.resources[dependency]; found {
				continue
			}
			if _, found := tilt.locals[dependency]; !found {
				t.Errorf("%s waits for %s, which is no resource", name, dependency)
			}
		}
		for _, forward := range resource.forwards {
			var onHost, inPod int32
			if _, err := fmt.Sscanf(forward, "%d:%d", &onHost, &inPod); err != nil {
				t.Errorf("%s forwards %q: %v", name, forward, err)
			}
			if port := deployed[name].template.Spec.Containers[0].Ports[0].ContainerPort; port != inPod {
				t.Errorf("%s forwards to port %d, the container has %d", name, inPod, port)
			}
		}
	}
}

func TestTiltfileCompilesAndSyncsEachService(t *testing.T) {
	tilt := executeTiltfile(t)
	for _, service := range services(t) {
		t.Run(service, func(t *testing.T) {
			binary := "bin/linux/" + service
			compile, found := tilt.locals["compile-"+service]
			if want := "go build -o " + binary + " ./services/" + service; !found || !strings.HasSuffix(compile.command, want) {
				t.Errorf("compiles with %q, want … %s", compile.command, want)
			}
			image := tilt.images["lockstep/"+service]
			want := []string{"COPY " + binary + " /app/service", "RUN kill $(cat /tmp/service.pid)"}
			if !slices.Equal(image.update, want) {
				t.Errorf("updates with %q, want %q", image.update, want)
			}
			if line := "COPY bin/linux/${BINARY} /app/service\n"; !strings.Contains(read(t, image.dockerfile), line) {
				t.Errorf("%s lacks %q", image.dockerfile, line)
			}
			if !slices.Contains(image.only, binary) || image.buildArgs["BINARY"] != service {
				t.Errorf("the image takes %q as %q", image.only, image.buildArgs)
			}
			dependsOn := tilt.resources[service].dependsOn
			if !slices.Contains(dependsOn, "migrate") || !slices.Contains(dependsOn, "compile-"+service) {
				t.Errorf("starts after %q", dependsOn)
			}
		})
	}
}

func TestTiltfileNamesFilesThatExist(t *testing.T) {
	tilt := executeTiltfile(t)
	for _, local := range tilt.locals {
		for _, dependency := range local.deps {
			exists(t, dependency)
		}
	}
	for _, image := range tilt.images {
		for _, path := range append(slices.Clone(image.only), image.context, image.dockerfile) {
			exists(t, path)
		}
	}
}
