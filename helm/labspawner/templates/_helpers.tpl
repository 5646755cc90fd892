{{- /* Labels of every object of ours. Call with a dict: root, and component. */ -}}
{{- define "labspawner.labels" -}}
app.kubernetes.io/name: labspawner
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: labspawner
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "labspawner.hubId" -}}
{{- if .Values.hubId -}}
{{ .Values.hubId }}
{{- else -}}
{{ list .Release.Namespace .Release.Name | uniq | join "-" }}
{{- end -}}
{{- end }}

{{- define "labspawner.hubAccount" -}}
{{ .Values.jupyterhub.hub.serviceAccount.name }}
{{- end }}

{{- /* Not empty where this chart makes the hub's rights. */ -}}
{{- define "labspawner.hubRights" -}}
{{- if and .Values.rbac.create .Values.kubernetes.enabled -}}yes{{- end -}}
{{- end }}

{{- /* Not empty where there are node agents. */ -}}
{{- define "labspawner.agents" -}}
{{- if and .Values.kubernetes.enabled (eq .Values.gpu.strategy "device-plugin") -}}yes{{- end -}}
{{- end }}

{{- define "labspawner.agentNamespace" -}}
{{ .Values.gpu.agent.namespace | default .Release.Namespace }}
{{- end }}

{{- /* Names of cluster-wide objects carry the release, so that two releases never share one. */ -}}
{{- define "labspawner.clusterName" -}}
{{ printf "labspawner-%s-%s" .Release.Namespace .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* The pods of servers: labels that the provider gives them, and no course can. */ -}}
{{- define "labspawner.serverPods" -}}
labspawner.io/hub: {{ include "labspawner.hubId" . | quote }}
labspawner.io/provider: kubernetes
{{- end }}

{{- /* Pods of the official chart. Call with a dict: root, and component. */ -}}
{{- define "labspawner.officialPods" -}}
app: {{ .root.Values.jupyterhub.nameOverride | default "jupyterhub" }}
component: {{ .component }}
release: {{ .root.Release.Name }}
{{- end }}

{{- /* YAML reads an unquoted `off` as false. */ -}}
{{- define "labspawner.word" -}}
{{ ternary "off" (toString .) (eq (toString .) "false") }}
{{- end }}

{{- /* The settings of the provider `kubernetes`, as YAML. */ -}}
{{- define "labspawner.kubernetesProvider" -}}
{{- $gpu := dict "strategy" .Values.gpu.strategy "selftest" (include "labspawner.word" .Values.gpu.selftest) -}}
{{- if eq .Values.gpu.strategy "hami" -}}
{{- $hami := deepCopy .Values.gpu.hami.options -}}
{{- with .Values.gpu.hami.configMap -}}
{{- $_ := set $hami "config_map" . -}}
{{- end -}}
{{- $_ := set $gpu "hami" $hami -}}
{{- else if eq .Values.gpu.strategy "device-plugin" -}}
{{- $classes := dict -}}
{{- range .Values.gpu.pools -}}
{{- $policy := include "labspawner.word" (dig "cores_policy" "fair" (.options | default dict)) -}}
{{- range $name, $class := .classes -}}
{{- $_ := set $classes $name (merge (dict "policy" $policy) (omit $class "cards" "per_card")) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $gpu "classes" $classes -}}
{{- end -}}
{{- $ours := dict "kind" "kubernetes" "gpu" $gpu "whole_cluster" .Values.rbac.podsOfAllNamespaces -}}
{{- mergeOverwrite $ours (deepCopy .Values.kubernetes.options) | toYaml -}}
{{- end }}

{{- /* Not empty where the hub reads HAMi's device configuration. */ -}}
{{- define "labspawner.readsHami" -}}
{{- if and (include "labspawner.hubRights" .) (eq .Values.gpu.strategy "hami") .Values.gpu.hami.configMap -}}yes{{- end -}}
{{- end }}

{{- /* The file that `labspawner gpu agent` reads. Call with a dict: root, name and pool. */ -}}
{{- define "labspawner.agentSettings" -}}
{{- $agent := .root.Values.gpu.agent -}}
{{- $ours := dict "classes" .pool.classes "watchdog" (include "labspawner.word" $agent.watchdog) -}}
{{- $pool := mergeOverwrite $ours (deepCopy (.pool.options | default dict)) -}}
{{- dict "pools" (dict .name $pool)
    "metrics" (printf "0.0.0.0:%v" $agent.metricsPort)
    "state" $agent.stateDir
    "libvgpu_dir" $agent.libvgpuDir | toYaml -}}
{{- end }}
