package deploy_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestEachServiceHasItsManifest(t *testing.T) {
	base := deployments(mustDecode(t, render(t, overlays["base"])))
	for _, service := range services(t) {
		if file := "k8s/base/" + service + ".yaml"; !strings.Contains(read(t, file), "kind: Deployment") {
			t.Errorf("%s has no Deployment", file)
		}
		w, found := base[service]
		if !found {
			t.Errorf("no Deployment %s", service)
			continue
		}
		if image := w.template.Spec.Containers[0].Image; image != "lockstep/"+service {
			t.Errorf("%s: image is %s", w, image)
		}
	}
	if len(base) != len(services(t)) {
		t.Errorf("%d Deployments for %d services", len(base), len(services(t)))
	}
}

// All images of a rollout are of one release, which is named: "latest" is a different one tomorrow.
func TestProductionNamesOneRelease(t *testing.T) {
	tags := map[string]bool{}
	for _, w := range workloads(mustDecode(t, render(t, overlays["production"]))) {
		for _, c := range w.containers() {
			name, tag, _ := strings.Cut(path.Base(c.Image), ":")
			if name != w.name || strings.HasPrefix(c.Image, "lockstep/") {
				t.Errorf("%s: image is %s", w, c.Image)
			}
			tags[tag] = true
		}
	}
	if len(tags) != 1 || tags[""] || tags["latest"] {
		t.Errorf("the images have the tags %v", tags)
	}
}

var copyLine = regexp.MustCompile(`(?m)^COPY (.+) \S+$`)

// What a Dockerfile copies is there, it starts its service, and not as root.
func TestEachServiceHasItsImage(t *testing.T) {
	dockerfiles := map[string]string{"migrate": "migrations/Dockerfile"}
	for _, service := range services(t) {
		dockerfiles[service] = "services/" + service + "/Dockerfile"
	}
	for name, file := range dockerfiles {
		t.Run(name, func(t *testing.T) {
			text := read(t, file)
			for _, match := range copyLine.FindAllStringSubmatch(text, -1) {
				if strings.HasPrefix(match[1], "--from=build ") {
					continue
				}
				for _, source := range strings.Fields(match[1]) {
					if _, err := os.Stat(filepath.Join(root, source)); err != nil {
						t.Errorf("%s copies %s: %v", file, source, err)
					}
				}
			}
			for _, line := range []string{
				" -o /out/" + name + " ",
				"COPY --from=build /out/" + name + " /" + name + "\n",
				"USER 65532:65532\nENTRYPOINT [\"/" + name + "\"]\n",
			} {
				if !strings.Contains(text, line) {
					t.Errorf("%s lacks %q", file, line)
				}
			}
		})
	}
}
