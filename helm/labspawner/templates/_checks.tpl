{{- /* What the schema cannot say, or says badly: each refusal ends with what to type instead. */ -}}
{{- define "labspawner.checks" -}}
{{- $hub := .Values.jupyterhub.hub -}}
{{- $id := include "labspawner.hubId" . -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$" $id) -}}
{{- fail (printf "hubId: %q must be 1 to 32 characters of a-z, 0-9 and '-'. Write for example: hubId: %s" $id ($id | lower | replace "_" "-" | trunc 32 | trimAll "-")) -}}
{{- end -}}
{{- include "labspawner.checkCourses" . -}}
{{- include "labspawner.checkGpu" . -}}
{{- include "labspawner.checkHub" . -}}
{{- include "labspawner.checkVolumes" . -}}
{{- if and (not .Values.kubernetes.enabled) (not .Values.providers) -}}
{{- fail "kubernetes.enabled is false and providers is empty: nothing hosts servers. Write for example: providers: {lab-pve: {kind: proxmox, ...}}" -}}
{{- end -}}
{{- range $key := list "kind" "namespace" "kubeconfig" "context" "hub_config" -}}
{{- if hasKey $.Values.kubernetes.options $key -}}
{{- fail (printf "kubernetes.options.%s: servers run in the namespace of the release, for which rights and network policies are made. Leave it out, or install into another namespace: helm upgrade --install --namespace ..." $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.console.enabled (eq (int .Values.console.port) 8081) -}}
{{- fail (printf "console.port: %v is the hub's own. Write: console: {port: 8082}" .Values.console.port) -}}
{{- end -}}
{{- if hasKey .Values.providers "kubernetes" -}}
{{- fail "providers.kubernetes: this name is the chart's own. Write its settings to: kubernetes: {options: {...}}" -}}
{{- end -}}
{{- range .Values.networkPolicy.egress -}}
{{- range .to -}}
{{- if and .ipBlock (has (get .ipBlock "cidr") (list "0.0.0.0/0" "::/0")) (not (get .ipBlock "except")) -}}
{{- fail (printf "networkPolicy.egress: %s without `except` opens the addresses where clouds hand out credentials. Write: networkPolicy: {internet: true}" .ipBlock.cidr) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkCourses" -}}
{{- $files := .Values.courses.files -}}
{{- if not (kindIs "map" $files) -}}
{{- fail "courses.files is a list; it is courses by name. Write: courses: {files: {dl101: {course: dl101, title: ..., profiles: [...]}}}" -}}
{{- end -}}
{{- range $name, $course := $files -}}
{{- if not (regexMatch "^[a-z0-9][-a-z0-9_.]*$" $name) -}}
{{- fail (printf "courses.files: %q cannot name a file. Write small letters, digits, '-', '_' and '.', for example: dl101" $name) -}}
{{- end -}}
{{- if and (not (kindIs "string" $course)) (not (hasKey $course "course")) -}}
{{- fail (printf "courses.files.%s has no key `course`. Write: courses: {files: {%s: {course: %s, title: ..., profiles: [...]}}}" $name $name ($name | trimSuffix ".yaml")) -}}
{{- end -}}
{{- end -}}
{{- if and $files .Values.courses.existingClaim -}}
{{- fail "courses: both files and existingClaim are set. Keep one of them: the hub reads one folder." -}}
{{- end -}}
{{- if gt (len (toJson $files)) 900000 -}}
{{- fail "courses.files: more than a ConfigMap holds (1 MiB). Put the files on a volume: courses: {existingClaim: ...}" -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkGpu" -}}
{{- $gpu := .Values.gpu -}}
{{- $known := list "none" "hami" "device-plugin" -}}
{{- if not (has $gpu.strategy $known) -}}
{{- $guess := $gpu.strategy | lower | replace "_" "-" | replace " " "-" -}}
{{- $guess = ternary "device-plugin" $guess (has $guess (list "deviceplugin" "plugin" "agent" "labspawner")) -}}
{{- $guess = ternary "none" $guess (has $guess (list "" "off" "false" "cpu")) -}}
{{- fail (printf "gpu.strategy: %q is not known; there are none, hami and device-plugin. Write: gpu: {strategy: %s}" $gpu.strategy (ternary $guess "hami" (has $guess $known))) -}}
{{- end -}}
{{- if and (eq $gpu.strategy "device-plugin") (not $gpu.pools) -}}
{{- fail "gpu.strategy is device-plugin and gpu.pools is empty. Write: gpu: {pools: {default: {classes: {small: {memory: 6GiB, cores: 25, per_card: 4}}}}}" -}}
{{- end -}}
{{- if and (ne $gpu.strategy "device-plugin") $gpu.pools -}}
{{- fail (printf "gpu.pools is read by strategy device-plugin only, and gpu.strategy is %s. Write: gpu: {strategy: device-plugin}, or leave gpu.pools out." $gpu.strategy) -}}
{{- end -}}
{{- if and (ne $gpu.strategy "none") (not .Values.kubernetes.enabled) -}}
{{- fail "gpu.strategy slices cards for pods, and kubernetes.enabled is false. Write: gpu: {strategy: none}" -}}
{{- end -}}
{{- $sizes := dict -}}
{{- range $pool, $settings := $gpu.pools -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$" $pool) -}}
{{- fail (printf "gpu.pools: %q cannot name a DaemonSet. Write small letters, digits and '-', for example: a5000" $pool) -}}
{{- end -}}
{{- range $key := list "classes" "watchdog" -}}
{{- if hasKey ($settings.options | default dict) $key -}}
{{- fail (printf "gpu.pools.%s.options.%s has a place of its own. Write: %s" $pool $key (ternary "gpu: {agent: {watchdog: ...}}" (printf "gpu: {pools: {%s: {classes: ...}}}" $pool) (eq $key "watchdog"))) -}}
{{- end -}}
{{- end -}}
{{- range $name, $class := $settings.classes -}}
{{- $where := printf "gpu.pools.%s.classes.%s" $pool $name -}}
{{- include "labspawner.checkSize" (dict "where" (printf "%s.memory" $where) "value" $class.memory) -}}
{{- include "labspawner.checkPercent" (dict "where" (printf "%s.cores" $where) "value" ($class.cores | default 100)) -}}
{{- include "labspawner.checkCount" (dict "where" (printf "%s.per_card" $where) "value" ($class.per_card | default 1)) -}}
{{- $size := printf "%v of memory and %v%% of cores" $class.memory ($class.cores | default 100) -}}
{{- if and (hasKey $sizes $name) (ne (get $sizes $name) $size) -}}
{{- fail (printf "%s has %s, and another pool's %s has %s. A class is one size everywhere: give this one another name." $where $size $name (get $sizes $name)) -}}
{{- end -}}
{{- $_ := set $sizes $name $size -}}
{{- end -}}
{{- end -}}
{{- if ne (len $sizes) (len (values $sizes | uniq)) -}}
{{- fail (printf "gpu.pools: two classes have the same size (%s): which one would a profile get? Give them one name." (keys $sizes | sortAlpha | join ", ")) -}}
{{- end -}}
{{- with $gpu.hami.configMap -}}
{{- if not (regexMatch "^[a-z0-9.-]{1,63}/[a-z0-9.-]{1,253}$" .) -}}
{{- fail (printf "gpu.hami.configMap: %q lacks its namespace. Write: kube-system/hami-scheduler-device" .) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkSize" -}}
{{- $text := toString .value -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)? ?[KMGT]i(B)?$" $text) -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text | default "6" -}}
{{- $unit := regexFind "[KMGTkmgt]" $text | upper | default "G" -}}
{{- fail (printf "%s: %q is no size. Write the number with its unit: %s%siB" .where $text $number $unit) -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkPercent" -}}
{{- $text := toString .value | trimSuffix "%" -}}
{{- if or (not (regexMatch "^[0-9]{1,3}$" $text)) (lt (atoi $text) 1) (gt (atoi $text) 100) -}}
{{- fail (printf "%s: %q is no share of a card's compute time. Write whole percent, 1 to 100: 25" .where (toString .value)) -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkCount" -}}
{{- $text := toString .value -}}
{{- if or (not (regexMatch "^[0-9]{1,3}$" $text)) (lt (atoi $text) 1) -}}
{{- fail (printf "%s: %q is no number of slices. Write a whole number, 1 or more: 4" .where $text) -}}
{{- end -}}
{{- end }}

{{- define "labspawner.checkHub" -}}
{{- $official := .Values.jupyterhub -}}
{{- $config := dig "hub" "config" dict $official -}}
{{- $log_in := dig "JupyterHub" "authenticator_class" "dummy" $config -}}
{{- if and (has $log_in (list "dummy" "jupyterhub.auth.DummyAuthenticator")) (not (dig "DummyAuthenticator" "password" "" $config)) -}}
{{- fail "jupyterhub.hub.config: with the dummy authenticator and no password, anybody logs in as anybody. Write jupyterhub: {hub: {config: {JupyterHub: {authenticator_class: ...}}}}, or to try it out: {DummyAuthenticator: {password: ...}}" -}}
{{- end -}}
{{- if and $official.cull.enabled .Values.culler.enabled -}}
{{- fail "jupyterhub.cull.enabled and culler.enabled: two cullers disagree about who is idle. Write: jupyterhub: {cull: {enabled: false}}" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled $official.singleuser.networkPolicy.enabled -}}
{{- fail "networkPolicy.enabled and jupyterhub.singleuser.networkPolicy.enabled: what either of two policies allows is allowed. Write: jupyterhub: {singleuser: {networkPolicy: {enabled: false}}}" -}}
{{- end -}}
{{- if and (ne $official.hub.db.type "sqlite-pvc") (not .Values.database.external) -}}
{{- fail (printf "jupyterhub.hub.db.type is %s, so the hub has no volume, and leases would be lost with its pod. Write: database: {external: true}, and the URL into key database-url of Secret %s" $official.hub.db.type .Values.existingSecret) -}}
{{- end -}}
{{- if and .Values.rbac.create (dig "serviceAccount" "create" false $official.hub) -}}
{{- fail "jupyterhub.hub.serviceAccount.create and rbac.create: both would make the hub's account. Write: jupyterhub: {hub: {serviceAccount: {create: false}}}" -}}
{{- end -}}
{{- if not $official.rbac.create -}}
{{- $why := list -}}
{{- if dig "scheduling" "userScheduler" "enabled" false $official -}}{{- $why = append $why "scheduling.userScheduler" -}}{{- end -}}
{{- if dig "prePuller" "hook" "enabled" false $official -}}{{- $why = append $why "prePuller.hook" -}}{{- end -}}
{{- if and (dig "proxy" "https" "enabled" false $official) (eq (dig "proxy" "https" "type" "letsencrypt" $official) "letsencrypt") -}}{{- $why = append $why "proxy.https.type letsencrypt" -}}{{- end -}}
{{- if $why -}}
{{- fail (printf "jupyterhub.%s needs roles of the official chart, and jupyterhub.rbac.create is false. Write: jupyterhub: {rbac: {create: true}}; the hub may then read every Secret of its namespace. Or turn it off." (join ", jupyterhub." $why)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.gpu.strategy "hami") (dig "scheduling" "userScheduler" "enabled" false $official) -}}
{{- fail "jupyterhub.scheduling.userScheduler: HAMi leaves alone pods that name a scheduler. Write: jupyterhub: {scheduling: {userScheduler: {enabled: false}}}" -}}
{{- end -}}
{{- end }}

{{- /* The hub's volumes are the official chart's value, and a list replaces a list. */ -}}
{{- define "labspawner.checkVolumes" -}}
{{- $hub := .Values.jupyterhub.hub -}}
{{- $courses := dict "name" "labspawner-courses" "configMap" (dict "name" "labspawner-courses" "optional" true) -}}
{{- if .Values.courses.existingClaim -}}
{{- $courses = dict "name" "labspawner-courses" "persistentVolumeClaim" (dict "claimName" .Values.courses.existingClaim "readOnly" true) -}}
{{- end -}}
{{- $wanted := list
    (dict "name" "labspawner-settings" "configMap" (dict "name" "labspawner-settings"))
    $courses
    (dict "name" "labspawner-secrets" "secret" (dict "secretName" .Values.existingSecret "optional" true))
    (dict "name" "labspawner-data" "emptyDir" dict)
    (dict "name" "tmp" "emptyDir" dict) -}}
{{- range $volume := $wanted -}}
{{- if not (has $volume $hub.extraVolumes) -}}
{{- fail (printf "jupyterhub.hub.extraVolumes lacks a volume that the hub needs; a list of yours replaces the chart's. Write there: %s" (toJson $wanted)) -}}
{{- end -}}
{{- end -}}
{{- $mounted := list -}}
{{- range $hub.extraVolumeMounts -}}{{- $mounted = append $mounted .mountPath -}}{{- end -}}
{{- range $name, $path := dict "labspawner-settings" "/etc/labspawner/settings" "labspawner-courses" "/etc/labspawner/courses" "labspawner-secrets" "/etc/labspawner/secrets" "labspawner-data" "/var/lib/labspawner" "tmp" "/tmp" -}}
{{- if not (has $path $mounted) -}}
{{- fail (printf "jupyterhub.hub.extraVolumeMounts has nothing at %s; a list of yours replaces the chart's. Write there: {name: %s, mountPath: %s}" $path $name $path) -}}
{{- end -}}
{{- end -}}
{{- end }}
